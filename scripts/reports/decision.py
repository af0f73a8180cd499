"""decision.md and decision.html: a decision record that another person can follow, doubt and repeat."""

from __future__ import annotations

import shlex
from itertools import groupby
from typing import TYPE_CHECKING, Any

from scripts.reports.axes import format_number
from scripts.reports.comparison import HEADER, cells, groups
from scripts.reports.figures import figures
from scripts.reports.page import render_html, render_markdown
from scripts.reports.values import fact_text, run_name
from tpforge.measure.comparison.level_rows import fullest_gpu
from tpforge.measure.comparison.limits import Limits, check_level, in_order, levels_within
from tpforge.measure.decisions.decision import Production, tokens_per_second
from tpforge.measure.runs.run import ENGINE_FIELDS, ENVIRONMENT_FIELDS, Fact, Run, Workload
from tpforge.outputs.places import OUT
from tpforge.units import counted, format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tpforge.measure.comparison.compare import Comparison
    from tpforge.measure.decisions.decided import Decided
    from tpforge.measure.decisions.decision import Scaling

_LIMITS = {
    "ttft_p95_ms": "p95 of time to first token at most {:g} ms",
    "itl_p95_ms": "p95 of inter-token latency at most {:g} ms",
    "request_latency_p95_ms": "p95 of request latency at most {:g} ms",
    "min_tokens_per_second": "at least {:g} output tokens/s",
    "max_error_percent": "at most {:g} % of requests fail",
    "max_gpu_memory_gib": "at most {:g} GiB on each GPU",
}
_PRODUCTION = {
    "input_tokens": "prompts of up to {} tokens",
    "output_tokens": "answers of up to {} tokens",
    "concurrency": "{} requests at once",
}
OPTION_HEADER = (
    "option", "model", "precision", "ranks", "runtime", "hardware", "most tokens/s", "TTFT p95 there",
    "memory", "failed", "keeps the limits",
)  # fmt: skip
_MOST_ANSWERS = 6


def decision_html(decided: Decided) -> str:
    """The page; it needs nothing beside itself."""
    return render_html("decision.html.j2", _values(decided))


def decision_markdown(decided: Decided) -> str:
    """The same as Markdown; its plots are in the page only, their numbers in its tables."""
    return render_markdown("decision.md.j2", _values(decided))


def first_line(runs: Sequence[Run]) -> str:
    """What a reader has to know before anything else: whether a GPU was used, and TensorRT-LLM."""
    is_ours = all(run.engine["runtime"].value == "reference" for run in runs)
    unread = [run.environment["gpu"].unavailable_because for run in runs]
    if None not in unread:
        cpu = runs[0].environment["num_cpus"].value
        if is_ours and cpu is not None:
            return (
                f"This is a CPU demonstration: the reference runtime on {cpu} CPU cores, no GPU. "
                "Its numbers say nothing of TensorRT-LLM or of GPUs."
            )
        reasons = "; ".join(dict.fromkeys(reason for reason in unread if reason))
        return f"On which GPUs this was measured, if any, is not recorded: {reasons}."
    if is_ours:
        return "Measured with the reference runtime, which is not TensorRT-LLM and has not its speed."
    return ""


def _values(decided: Decided) -> dict[str, Any]:
    decision, request = decided.decision, decided.decision.request
    runs = [one.run for one in decided.runs]
    names = {run.id: run.label for run in runs}
    limits = request.limits
    return {
        "title": request.question,
        "first_line": first_line(runs),
        "created": decision.created,
        "version": decision.tpforge_version,
        "recommended": run_name(decided.recommended.run),
        "fallback": run_name(decided.fallback.run),
        "because": request.because,
        "trigger": request.trigger,
        "bottleneck": request.bottleneck,
        "complexity": request.complexity,
        "against": decision.against,
        "findings": decision.findings,
        "limits": _told(_LIMITS, limits),
        "production": _told(_PRODUCTION, request.production),
        "workload": _workload(runs[0]),
        "considered": request.considered,
        "option_header": OPTION_HEADER,
        "options": [option_row(run, limits) for run in runs],
        "figures": figures(decision, runs, decided.samples),
        "header": HEADER,
        "comparisons": [_compared(one, names) for one in decision.comparisons],
        "scaling": [_scaled(one, names) for one in decision.scaling],
        "risks": decision.risks,
        "checklist": decision.checklist,
        "num_done": sum(item.status == "done" for item in decision.checklist),
        "num_missing": sum(item.status == "missing" for item in decision.checklist),
        "answers": _answers(decided),
        "facts_header": ("fact", *(run.label for run in runs)),
        "facts": _facts(runs),
        "commands": commands_to_repeat(runs),
        "notes": [f"{run.label}: {note}" for run in runs for note in _run_notes(run)],
    }


def _compared(comparison: Comparison, names: dict[str, str]) -> dict[str, Any]:
    """A run beside the baseline: the title, the verdict on what differs, the rows in groups."""
    return {
        "title": f"{names[comparison.candidate]} against {names[comparison.baseline]}",
        "verdict": comparison.variables.verdict,
        "groups": [(name, [(cells(row), row.verdict) for row in rows]) for name, rows in groups(comparison)],
        "notes": comparison.notes,
    }


def _scaled(item: Scaling, names: dict[str, str]) -> tuple[str, ...]:
    """How a run with more ranks compares with the one of the fewest."""
    speedup, efficiency = f"{item.speedup:.2f}", f"{item.efficiency:.2f}"
    return names[item.run], item.level, str(item.num_ranks), speedup, efficiency


def option_row(run: Run, limits: Limits) -> tuple[str, ...]:
    """A run as the texts under OPTION_HEADER."""
    engine, environment = run.engine, run.environment
    level = max(run.levels, key=lambda one: speed.value if (speed := tokens_per_second(one)) else 0.0)
    speed, tail = tokens_per_second(level), level.metrics.get("time_to_first_token")
    gpus = [used.max for one in run.levels if (used := fullest_gpu(one)) is not None]
    tp, pp = (engine[name].value for name in ("tp", "pp"))
    failed = sum(one.num_failed for one in run.levels)
    hardware = environment["gpu"] if environment["gpu"].value is not None else environment["cpu"]
    quantized = _format_name(engine["quantization"])
    precision = fact_text(engine["precision"])
    return (
        run.label,
        fact_text(engine["model"]).rpartition("/")[2],
        precision
        if quantized in ("none", precision) or quantized.startswith("not read")
        else f"{precision}, {quantized}",
        f"tp {tp}, pp {pp}" if pp not in (None, 1) else f"tp {tp}",
        fact_text(engine["runtime"]),
        fact_text(hardware),
        f"{_interval(speed)} at {level.name}" if speed else "not measured",
        f"{format_number(tail.p95)} ms" if tail and tail.p95 is not None else "not measured",
        f"{format_bytes(round(max(gpus)))} on the fullest GPU" if gpus else "no GPU",
        f"{failed} of {sum(one.num_requests for one in run.levels)}",
        _limits_kept(run, limits),
    )


def commands_to_repeat(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The measurements in the order in which they were made: the first of a run, and what joined it."""
    times = sorted(
        (repeat.started, place)
        for place, run in enumerate(runs)
        for level in run.levels[:1]
        for repeat in level.repeats
    )
    turns: list[int] = []
    for place, repeats in groupby(place for _, place in times):
        turns += [place] * max(1, len(list(repeats)) // _repeats_of(runs[place].command))
    turns += [place for place, run in enumerate(runs) if not run.levels]
    seen: set[int] = set()
    commands = []
    for place in turns:
        run, folder = runs[place], f"{OUT}/repeated/{runs[place].label}"
        words = ("--join", folder) if place in seen else ("--label", run.label, "--out", folder)
        commands.append((run.label, shlex.join([*_without(run.command, "--label"), *words])))
        seen.add(place)
    return commands


def _repeats_of(command: Sequence[str]) -> int:
    """How many repeats of each level a command measures: as `--repeats` says, else all that there are."""
    place = command.index("--repeats") if "--repeats" in command else None
    return int(command[place + 1]) if place is not None else 1_000_000


def _without(command: Sequence[str], option: str) -> list[str]:
    """A command without an option and its value."""
    words = list(command)
    while option in words:
        place = words.index(option)
        del words[place : place + 2]
    return words


def _limits_kept(run: Run, limits: Limits) -> str:
    """Where all limits are kept, and what of them was not measured or is undecided."""
    if limits == Limits():
        return "no limits were given"
    open_ones = [
        f"{result.limit} {result.state} at {result.level}"
        for level in in_order(run)
        for result in check_level(level, limits)
        if result.state in ("not measured", "undecided")
    ]
    return "; ".join([", ".join(levels_within(run, limits)) or "shown at no level", *open_ones])


def _format_name(quantization: Fact) -> str:
    """The format alone: a run records all that is known of it."""
    value = quantization.value
    return str(value["format"]) if isinstance(value, dict) and "format" in value else fact_text(quantization)


def _interval(side: Any) -> str:
    if side.low is None:
        return f"{format_number(side.value)} n={side.n}"
    return f"{format_number(side.value)} [{format_number(side.low)}, {format_number(side.high)}] n={side.n}"


def _told(words: dict[str, str], record: Limits | Production) -> list[str]:
    values = record.model_dump()
    return [text.format(values[name]) for name, text in words.items() if values[name] is not None]


def _workload(run: Run) -> list[str]:
    work = run.workload
    lengths = []
    for name, word in (("input_sequence_length", "prompt"), ("output_sequence_length", "answer")):
        found = [level.metrics[name] for level in run.levels if name in level.metrics]
        if found and found[0].min is not None:
            least, most = min(one.min or 0 for one in found), max(one.max or 0 for one in found)
            lengths.append(f"{word}s of {least:.0f} to {most:.0f} tokens")
    return [
        f"{counted(work.num_prompts, 'prompt')} ({work.prompts}), "
        + (", ".join(lengths) or "lengths not counted"),
        f"{work.loop} loop: {', '.join(level.name for level in run.levels)}",
        f"{work.num_repeats} repeats of {_extent(work)} after {work.warmup_s:g} s of warmup",
        f"asked over {work.target}, model {work.model}, {'streamed' if work.streaming else 'not streamed'}",
    ]


def _extent(work: Workload) -> str:
    """How long a repeat is."""
    seconds = f"{work.duration_s:g} s" if work.duration_s else ""
    if work.num_requests is None:
        return seconds
    return counted(work.num_requests, "request") + (f", at most {seconds}," if seconds else "")


def _answers(decided: Decided) -> list[dict[str, Any]]:
    """Some prompts with the answer of every run: one of each kind that all were asked, first ones first."""
    first: dict[str, dict[str, str]] = {}
    for one in decided.runs:
        for sample in decided.samples[one.run.id]:
            if sample.is_complete and sample.output_text:
                first.setdefault(sample.prompt_id, {}).setdefault(one.run.label, sample.output_text)
    everyone = [prompt for prompt, answers in first.items() if len(answers) == len(decided.runs)]
    kinds: dict[str, str] = {}
    for prompt in sorted(everyone):
        kinds.setdefault(prompt.rpartition("-")[0], prompt)
    texts = _prompt_texts(decided)
    return [
        {
            "id": prompt,
            "text": texts.get(prompt, ""),
            "answers": list(first[prompt].items()),
            "equal": len(set(first[prompt].values())) == 1,
        }
        for prompt in list(kinds.values())[:_MOST_ANSWERS]
    ]


def _prompt_texts(decided: Decided) -> dict[str, str]:
    """The texts of the prompts that ship, by id; those of a user's own file are not kept in a run."""
    from tpforge.errors import TpforgeError
    from triton_repo.load.prompt_sets import load_prompts

    try:
        return {prompt.id: prompt.text for prompt in load_prompts(decided.runs[0].run.workload.prompts)}
    except TpforgeError:
        return {}


def _facts(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    rows = [(name, *(fact_text(run.engine[name]) for run in runs)) for name in ENGINE_FIELDS]
    return rows + [(name, *(fact_text(run.environment[name]) for run in runs)) for name in ENVIRONMENT_FIELDS]


def _run_notes(run: Run) -> list[str]:
    notes = [f"{level.name}: {note}" for level in run.levels for note in level.telemetry.notes]
    unread = {(kind, why) for level in run.levels for kind, why in level.telemetry.unavailable.items()}
    return [*run.notes, *notes, *(f"{kind} not read: {why}" for kind, why in sorted(unread))]
