"""The questions that a recommendation has to answer, each with what was done or what is missing.

Every answer follows from the runs or from what the person said; nothing is taken for done.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tpforge.measure.comparison.compare import Comparison, level_like
from tpforge.measure.comparison.level_rows import turns_at
from tpforge.measure.decisions.decision import ChecklistItem, Request, Status, num_ranks
from tpforge.measure.runs.run import Run

CASES = ("easy", "average", "long-context", "malformed", "high-value")
MIN_REPEATS = 3
_SOFTWARE = ("runtime_version", "server_version", "tpforge_version")
_GPU_SOFTWARE = ("driver", "cuda", "nccl")


@dataclass(frozen=True)
class Evidence:
    """All that the checklist looks at.

    `outputs` has, by the id of a run, the ids of the prompts whose answers were kept.
    """

    request: Request
    baseline: Run
    recommended: Run
    runs: Sequence[Run]
    comparisons: Sequence[Comparison]
    outputs: Mapping[str, frozenset[str]]
    prices: Mapping[str, float]


Answer = tuple[Status, str]


def fill_checklist(evidence: Evidence) -> tuple[ChecklistItem, ...]:
    """Every question with its answer."""
    items = []
    for question, answer in _QUESTIONS:
        status, said = answer(evidence)
        items.append(ChecklistItem(question=question, status=status, evidence=said))
    return tuple(items)


def _bottleneck(evidence: Evidence) -> Answer:
    said = evidence.request.bottleneck
    return (
        ("done", said)
        if said
        else ("missing", "give --bottleneck: what limits the present system, in numbers")
    )


def _baseline(evidence: Evidence) -> Answer:
    run = evidence.baseline
    ranks = num_ranks(run)
    if not evidence.outputs.get(run.id):
        return "missing", f"{run.label} is the baseline, but no answer of it was kept"
    if ranks is None:
        return "missing", f"{run.label} is the baseline, but its ranks are not known"
    kept = f"{run.label}, {_ranks(ranks)}, {len(evidence.outputs[run.id])} prompts with their answers"
    return "done", kept


def _one_variable(evidence: Evidence) -> Answer:
    several = [c for c in evidence.comparisons if len(c.variables.changed) > 1]
    if not several:
        return "done", "each run differs from the baseline in one recorded variable at most"
    names = {run.id: run.label for run in evidence.runs}
    return "missing", "; ".join(
        f"{names[c.candidate]}: {', '.join(change.name for change in c.variables.changed)}" for c in several
    )


def _lengths(evidence: Evidence) -> Answer:
    longest = _longest_input(evidence.recommended)
    wanted = evidence.request.production.input_tokens
    if longest is None:
        return "missing", "input tokens were not counted"
    if wanted is None:
        return (
            "missing",
            f"prompts of up to {longest:.0f} tokens; say with --production-input what is expected",
        )
    said = f"prompts of up to {longest:.0f} tokens, {wanted} are expected"
    return ("done" if longest >= wanted else "missing"), said


def _concurrency(evidence: Evidence) -> Answer:
    most = max((level.concurrency or 0 for level in evidence.recommended.levels), default=0)
    wanted = evidence.request.production.concurrency
    rates = [level.rate_per_s for level in evidence.recommended.levels if level.rate_per_s is not None]
    if rates and not most:
        return "done", f"an open loop of up to {max(rates):g} requests a second"
    if wanted is None:
        return "missing", f"up to {most} at once; say with --production-concurrency what is expected"
    return ("done" if most >= wanted else "missing"), f"up to {most} at once, {wanted} are expected"


def _cases(evidence: Evidence) -> Answer:
    asked = {prompt.rpartition("-")[0] for prompt in evidence.outputs.get(evidence.recommended.id, ())}
    absent = [case for case in CASES if case not in asked]
    if not absent:
        return "done", f"answers to all of {', '.join(CASES)} were kept"
    return "missing", f"no kept answer to: {', '.join(absent)}; measure with --prompts mixed"


def _repeats(evidence: Evidence) -> Answer:
    fewest = min((len(level.repeats) for run in evidence.runs for level in run.levels), default=0)
    cut = [run.label for run in evidence.runs if run.interrupted]
    if cut:
        return "missing", f"interrupted: {', '.join(cut)}"
    return ("done" if fewest >= MIN_REPEATS else "missing"), f"at least {fewest} of each level"


def _turns(evidence: Evidence) -> Answer:
    baseline = evidence.baseline
    apart = [
        run.label
        for run in evidence.runs
        if run.id != baseline.id
        for level in baseline.levels
        if (other := level_like(run, level)) is not None and not turns_at(level, other).are_taken
    ]
    if apart:
        said = ", ".join(dict.fromkeys(apart))
        return "missing", f"not in turns with {baseline.label}: {said}; measure again with bench --join"
    return "done", f"every option took turns with {baseline.label}"


def _model(evidence: Evidence) -> Answer:
    # A file has no revision: the hash of its weights says which it is.
    with_revision = all(run.engine["revision"].value is not None for run in evidence.runs)
    which = "revision" if with_revision else "weights_sha256"
    return _recorded(evidence.runs, ("model", which, "precision", "license"))


def _software(evidence: Evidence) -> Answer:
    return _recorded(evidence.runs, _SOFTWARE, section="environment", also=("runtime_version",))


def _hardware(evidence: Evidence) -> Answer:
    if _on_cpu(evidence.runs):
        status, said = _recorded(evidence.runs, ("cpu", "num_cpus", "memory_bytes"), section="environment")
        return status, f"{said}; no GPU, so no driver and no interconnect"
    return _recorded(evidence.runs, ("gpu", "num_gpus", "topology", *_GPU_SOFTWARE), section="environment")


def _memory(evidence: Evidence) -> Answer:
    gpus = [gpu for level in evidence.recommended.levels for gpu in level.telemetry.gpus]
    if any("memory_used" in gpu.series for gpu in gpus):
        return "done", "weights, KV cache and overhead together, read on every GPU under load"
    if any("memory_used" in level.telemetry.host for level in evidence.recommended.levels):
        return "missing", "no GPU: only the memory of the whole machine was read under load"
    return "missing", "no memory was read while the load ran"


def _quality(evidence: Evidence) -> Answer:
    absent = [run.label for run in (evidence.baseline, evidence.recommended) if not run.quality]
    if absent:
        return "missing", f"tpforge evaluate --run was not run for: {', '.join(dict.fromkeys(absent))}"
    return (
        "done",
        f"measured of baseline and recommendation: {', '.join(sorted(evidence.recommended.quality or {}))}",
    )


def _structured(evidence: Evidence) -> Answer:
    found = (evidence.recommended.quality or {}).get("structured_validity")
    if found is None:
        return "missing", f"not tested with {evidence.recommended.label}"
    return (
        "done",
        f"{found.value:.0f} % of {found.n} answers fit their schema with {evidence.recommended.label}",
    )


def _failures(evidence: Evidence) -> Answer:
    counted = [
        f"{run.label} {sum(level.num_failed for level in run.levels)} of "
        f"{sum(level.num_requests for level in run.levels)}"
        for run in evidence.runs
    ]
    return "done", f"failed requests: {', '.join(counted)}"


def _simpler(evidence: Evidence) -> Answer:
    ranks = num_ranks(evidence.recommended)
    if ranks == 1:
        return "not needed", "a single rank is recommended"
    weights = {f"{run.engine['model'].value} {run.engine['quantization'].value}" for run in evidence.runs}
    if len(weights) > 1:
        return "done", f"measured beside each other: {', '.join(sorted(weights))}"
    return "missing", "neither a quantized nor a smaller model was measured beside several ranks"


def _models_compared(evidence: Evidence) -> Answer:
    models = _values(evidence.runs, "model")
    if len(models) < 2:
        return "not needed", "all runs are of one model"
    licenses = [run.engine["license"].value for run in evidence.runs]
    if None in licenses:
        return "missing", f"{len(models)} models, and the license of one is not known"
    return (
        "done",
        f"licenses: {', '.join(sorted(set(map(str, licenses))))}; tokens counted by each one's tokenizer",
    )


def _cost(evidence: Evidence) -> Answer:
    absent = [run.label for run in evidence.runs if run.id not in evidence.prices]
    return (
        ("missing", f"give --hourly-cost for: {', '.join(absent)}")
        if absent
        else ("done", "by the price of an hour")
    )


def _complexity(evidence: Evidence) -> Answer:
    said = evidence.request.complexity
    return ("done", said) if said else ("missing", "give --complexity: what running it asks of people")


def _fallback(evidence: Evidence) -> Answer:
    said = f"fallback {evidence.request.fallback}"
    if not evidence.request.trigger:
        return "missing", f"{said}, but nothing says when to take it: give --trigger"
    return "done", f"{said}, when {evidence.request.trigger}"


_QUESTIONS: tuple[tuple[str, Callable[[Evidence], Answer]], ...] = (
    ("Is a measurable bottleneck named?", _bottleneck),
    ("Was a baseline kept, with its answers?", _baseline),
    ("Was one variable changed at a time?", _one_variable),
    ("Were the lengths realistic?", _lengths),
    ("Was the concurrency realistic?", _concurrency),
    ("Were easy, average, long, malformed and high-value cases asked?", _cases),
    (f"Was everything measured at least {MIN_REPEATS} times, to the end?", _repeats),
    ("Were the options measured in turns?", _turns),
    ("Are model, revision, precision and license recorded?", _model),
    ("Are the versions of runtime and server recorded?", _software),
    ("Are hardware and interconnect recorded?", _hardware),
    ("Was memory measured under load, with KV cache and overhead?", _memory),
    ("Was quality measured, of baseline and recommendation?", _quality),
    ("Was structured output tested with what is recommended?", _structured),
    ("Were failures counted?", _failures),
    ("Were quantization or a smaller model tried before more GPUs?", _simpler),
    ("Were licenses and tokenizers compared between models?", _models_compared),
    ("Is the cost recorded?", _cost),
    ("Is the operational complexity recorded?", _complexity),
    ("Is a fallback linked, with its trigger?", _fallback),
)


def _recorded(
    runs: Sequence[Run], names: Iterable[str], *, section: str = "engine", also: Iterable[str] = ()
) -> Answer:
    """Whether each fact is known of each run; `also` are facts of the engine in a list of the environment."""
    absent, known = [], []
    for name in names:
        place = "engine" if name in also else section
        facts = [getattr(run, place)[name] for run in runs]
        unread = [fact.unavailable_because for fact in facts if fact.value is None]
        if unread:
            absent.append(f"{name} ({unread[0]})")
        else:
            known.append(f"{name} {', '.join(dict.fromkeys(_short(fact.value) for fact in facts))}")
    if absent:
        return "missing", f"not read: {', '.join(absent)}" + (
            f"; recorded: {'; '.join(known)}" if known else ""
        )
    return "done", "; ".join(known)


def _longest_input(run: Run) -> float | None:
    lengths = [
        level.metrics["input_sequence_length"]
        for level in run.levels
        if "input_sequence_length" in level.metrics
    ]
    return max((length.max for length in lengths if length.max is not None), default=None)


def _on_cpu(runs: Sequence[Run]) -> bool:
    return all(run.environment["gpu"].value is None for run in runs)


def _values(runs: Sequence[Run], name: str) -> set[object]:
    return {run.engine[name].value for run in runs if run.engine[name].value is not None}


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 48 else f"{text[:45]}..."
