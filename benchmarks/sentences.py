"""The sentences of docs/planning.md that state figures, made of the figures: so neither contradicts a table.

They stand between comments of the page, a block each; the rest of the page states none of these figures.
"""

from __future__ import annotations

import csv
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence

from benchmarks.bands import Coverage
from benchmarks.buffers import RECENT, buffer_rows
from benchmarks.fitting import FREE, FREE_OF_EXPERTS, pipeline_rows
from benchmarks.measured import Measured, Spread, spreads
from benchmarks.planner_tables import BEYOND, deployment, misses, tables
from benchmarks.published import DATA, engine_of
from tpforge.errors import InputRefused
from tpforge.plan.memory.rank import RankMemory
from tpforge.plan.speed.grouped import grouped_kernels
from tpforge.plan.speed.load import Load
from tpforge.plan.speed.throughput import speed
from tpforge.units import MIB

WIDTH = 132
FEWEST, MOST = 0.75, 0.88
"""What a band of 8 of 10 should hold of a group."""
_WORST = 3


def blocks(found: Measured) -> dict[str, str]:
    """The text of every block by its name."""
    return {
        "memory": _wrapped(_memory()),
        "kernels": _wrapped(_kernels()),
        "first-token": _wrapped(_first_token(found)),
        "aiconfigurator": _wrapped(_aiconfigurator(found)),
        "data": "\n\n".join(_wrapped(one) for one in _data(found)),
        "misses": "\n".join(_wrapped(one, bullet=True) for one in _misses(found)),
        "tables": "\n".join(_markdown(*one) for one in tables(found)).rstrip("\n"),
    }


def with_blocks(page: str, texts: Mapping[str, str]) -> str:
    """The page with these blocks.

    Raises:
        InputRefused: it has not each of them once.
    """
    for name, text in texts.items():
        pattern = re.compile(f"(<!-- planner: {name} -->\n).*?(\n<!-- end of {name} -->)", re.DOTALL)
        page, count = pattern.subn(lambda match, text=text: f"{match[1]}{text}{match[2]}", page)  # type: ignore[misc]
        if count != 1:
            raise InputRefused(f"docs/planning.md: found {count} blocks of {name}, expected one")
    return page


def _wrapped(text: str, *, bullet: bool = False) -> str:
    # A figure and its % stay on one line.
    lines = textwrap.wrap(
        text.replace(" %", "\0%"),
        WIDTH,
        initial_indent="- " if bullet else "",
        subsequent_indent="  " if bullet else "",
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines).replace("\0", " ")


def _markdown(title: str, header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [f"### {title}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in cells), ""])


def _percent(share: float, places: int = 0) -> str:
    return f"{100 * share:.{places}f} %"


def _list(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


# What upstream's page states of an engine of Llama 2 7B in FP8, for steps of 8192 tokens, as trtllm-build's
# default is. Source: NVIDIA/TensorRT-LLM, docs memory.md.
_WEIGHTS_MIB, _ACTIVATIONS_MIB = 6695, 1134


def example_memory() -> RankMemory:
    """The plan of the engine of upstream's example."""
    return engine_of(
        "llama-2-7b", gpu="h100-sxm", tp=1, pp=1, weight_format="fp8", kv_fraction=0.9, runtime="tensorrt"
    ).memory


def _memory() -> str:
    found = buffer_rows()
    recent = {
        line: [row for row in found if row.line == line and row.release in RECENT]
        for line in ("activations", "runtime buffers", "decoder")
    }
    older = [row for row in found if row.line == "activations" and row.release not in RECENT]
    lines = {line.name: line.num_bytes for line in example_memory().lines}
    activations = lines["activations"] / MIB
    worst = max(abs(row.error) for row in recent["activations"])
    (runtime,), (decoder,) = recent["runtime buffers"], recent["decoder"]
    past = _list([f"{_percent(row.error, 1)} of what {row.release} printed" for row in older])
    return (
        f"Activations of compiled engines equal what {len(recent['activations'])} engines of releases "
        f"{_list(RECENT)} printed, with INT4 or INT8 weights and 16-bit products, within "
        f"{_percent(worst, 2)}; the runtime buffers of one are {_percent(runtime.error)}, its decoder "
        f"{_percent(decoder.error)}. Older engines took more: activations are {past}, and "
        f"{_percent(activations / _ACTIVATIONS_MIB - 1)} of the {_ACTIVATIONS_MIB} MiB of upstream's "
        "documented example, an FP8 engine, whose page says that a later release is to take less. "
        f"Its weights are {_WEIGHTS_MIB} MiB, and {lines['weights'] / MIB:.0f} in a plan."
    )


def _kernels() -> str:
    kernels = grouped_kernels()
    errors = sorted(one.median_error for one in kernels)
    hopper = {one.format: one.flops for one in kernels if 90 in one.sms}
    return (
        f"Products of experts take what {sum(one.rows for one in kernels)} measured kernels took "
        "(aiconfigurator-core "
        f"0.12.0, TensorRT-LLM 1.3.0rc20, of the A100 1.0.0): four values for each of {len(kernels)} "
        "pairs of a kind of "
        f"GPU and a format, whose median errors on those rows are {_percent(errors[0])} to "
        f"{_percent(errors[-1])}. What "
        "they reach of the peak depends on the format: on Hopper "
        + _list(
            [
                f"{_percent(share)} in {name}"
                for name, share in sorted(hopper.items(), key=lambda one: -one[1])
            ]
        )
        + ". A format that was not measured is taken as one whose products run on the same numbers."
    )


def _first_token(found: Measured) -> str:
    first = found.fit.first_token
    fitted = sum(row.is_fitted for row, _ in found.times)
    server = f"{first.start_ms:g} ms, " if first.start_ms else ""
    return (
        f"Time to the first token is that of a server under load: {server}reading the prompt, "
        f"{100 * first.ahead:.1f} % of the prompts of the other requests at once, and {first.steps:g} steps "
        "of the running batch until it is scheduled and answered. These values are fitted to "
        f"{fitted} rows of Llama 3.1 70B on B200 and H200; how far they are off on "
        f"{len(found.times) - fitted} rows of other models is below. `--concurrency` above what fits adds "
        "the wait for cache. All of it is of a mean request."
    )


def _aiconfigurator(found: Measured) -> str:
    with (DATA / "planner_throughput_aiconfigurator.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    words = []
    for row in rows:
        engine = engine_of(
            row["model"],
            gpu=row["gpu"],
            tp=int(row["tp"]),
            pp=1,
            weight_format=row["format"],
            kv_fraction=0.9,
            runtime="pytorch",
        )
        ours = speed(engine, Load(1000, 1000), fit=found.fit)
        assert ours is not None
        here = ours.tokens_per_second / int(row["tp"])
        words.append(
            f"{row['model']} {row['format']} TP{row['tp']} on {row['gpu']} {row['tokens_per_s_gpu']} "
            f"and {here:.0f}"
        )
    return (
        "Tokens/s per GPU at 1000/1000 and as many requests as fit, its estimate first: "
        f"{_list(words)}. Its first "
        "token is that of a batch that starts together."
    )


def _data(found: Measured) -> Iterator[str]:
    judged = len(found.checked) + len(found.experts) + len(found.architectures)
    fitted = sum(row.is_fitted for row, _ in found.times)
    pipelined = len(pipeline_rows())
    yield (
        f"{len(FREE)} free values (shares of the peaks, overheads) are fitted to "
        f"{len(found.calibrated)} published "
        "rows, TensorRT-LLM 0.17 (Llama 3.1 8B and 70B) and 0.20 (Llama 3.3 70B) on A100, H100, H200, "
        "L40S and B200, and "
        f"to the time per token of {fitted} rows of Llama 3.1 70B under moderate load. "
        f"{len(FREE_OF_EXPERTS)} more, of attention data parallelism, are fitted to the "
        f"{len(found.experts_calibrated)} rows of Qwen3 235B over NVLink in 1.0, and one, of pipelines, to "
        f"{pipelined} of Llama 3.1 405B over 8 RTX PRO 6000. They are judged by {judged} other "
        "rows, which no fit saw: all of 0.14, 0.15 and 1.2, the rest of 1.0, with three GPUs the fit "
        "knows nothing "
        "of (A100 PCIe, GB200, RTX PRO 6000), 16 bits on the H100, and the other models of 0.17 and "
        "0.20 (405B, 8B, "
        "Mistral 7B, Mixtral 8x7B). The sources are the pages perf-overview.md of NVIDIA/TensorRT-LLM, "
        "under "
        "docs/source/performance (0.14, 0.15, 0.17, 0.20, 1.0) and docs/source/developer-guide (1.2); the "
        "rows are in "
        "`benchmarks/data/planner_calibration.csv`, `planner_check.csv`, "
        "`planner_experts_calibration.csv`, `planner_pipeline_calibration.csv`, "
        "`planner_experts.csv` and `planner_architectures.csv`."
    )
    latest = spreads(found.dense, lambda row: row.release)["0.15"]
    yield (
        "The rows of 0.15 were added last, and no term of the model was chosen by them: of the "
        f"{latest.rows} of dense models the median error is {_percent(latest.median, 1)}, the bias "
        f"{100 * latest.bias:+.1f} %."
    )
    unseen = sum(not row.is_fitted for row, _ in found.times)
    yield (
        f"All these rows are maximum throughput. Times under moderate load are judged by {unseen} rows of "
        "TensorRT-LLM in `systems/silicon_sample.csv` of aiconfigurator-core 0.12.0 (Apache-2.0), kept in "
        f"`benchmarks/data/planner_latency.csv`; both times were fitted to the {fitted} of Llama 3.1 "
        "70B. The time "
        f"to the first token of one request alone is judged by the {len(found.first_tokens)} rows of "
        "release 0.9 "
        "(`planner_ttft.csv`), which nothing was fitted to."
    )


def _misses(found: Measured) -> Iterator[str]:
    """A sentence or two each, the worst first."""
    yield from _of_coverage(found)
    yield from _of_rows(found)
    yield from _of_architectures(found)
    yield from _of_times(found)
    yield from _of_orders(found)


def _of_coverage(found: Measured) -> Iterator[str]:
    for each in found.coverage:
        low = [one for one in each.groups if one.share < FEWEST]
        high = [one for one in each.groups if one.share > MOST]
        parts = [
            f"{what} of {_list([_group(one) for one in groups])}"
            for what, groups in (("too few rows", low), ("too many", high))
            if groups
        ]
        if parts:
            yield (
                f"Bands of {each.what} hold {'; '.join(parts)}: left out of the fit of the bands, a "
                "group should have "
                f"{_percent(FEWEST)} to {_percent(MOST)} inside."
            )


def _group(one: Coverage) -> str:
    named = f"release {one.name}" if one.dimension == "release" else one.name
    return f"{named} ({_percent(one.share)} of {one.rows})"


def _of_rows(found: Measured) -> Iterator[str]:
    missed = misses(found.dense, beyond=BEYOND)
    worst = ", ".join(
        f"{model} {gpu} {sizes} at {lengths} in {release} ({error})"
        for release, model, gpu, sizes, lengths, _, _, error in missed[:_WORST]
    )
    yield (
        f"Of {len(found.dense)} rows of dense models {len(missed)} are off by more than "
        f"{_percent(BEYOND)}; the worst: {worst}."
    )
    by_size = spreads(found.dense, lambda row: f"TP{row.tp}" + (f" PP{row.pp}" if row.pp > 1 else ""))
    by_release = spreads(found.dense, lambda row: row.release)
    yield f"By size of the group the worst are {_worst(by_size)}; by release {_worst(by_release)}."


def _worst(groups: Mapping[str, Spread], *, count: int = 2) -> str:
    """The groups with the largest bias."""
    found = sorted(groups.items(), key=lambda one: -abs(one[1].bias))[:count]
    return _list([f"{name} ({100 * one.bias:+.0f} %)" for name, one in found])


def _of_architectures(found: Measured) -> Iterator[str]:
    by_name = spreads(found.architectures, deployment)
    yield (
        "Nothing was fitted to an architecture of the [table](models.md): of "
        f"{len(found.architectures)} rows of "
        f"DeepSeek V3 and gpt-oss the worst are {_worst(by_name)}."
    )
    experts = spreads(found.experts, lambda row: f"{deployment(row)} in {row.release}")
    yield f"Of Qwen3 with experts the worst are {_worst(experts)}."


def _of_times(found: Measured) -> Iterator[str]:
    for time in dict.fromkeys(one.time for one in found.beside):
        rows = [one for one in found.beside if one.time == time]
        there = [one for one in rows if one.their_median < one.median]
        here = [one for one in rows if one not in there]
        halves = [
            f"nearer {where} for "
            + _list([f"{one.data} ({_medians(one.median, one.their_median)})" for one in group])
            for where, group in (("there", there), ("here", here))
            if group
        ]
        yield (
            "Beside aiconfigurator 0.12.0, which has measured kernels of these very GPUs, the time "
            f"{time} is "
            f"{', and '.join(halves)}: median errors here, and there."
        )


def _medians(here: float, there: float) -> str:
    return f"{100 * here:.1f} and {100 * there:.1f} %"


def _of_orders(found: Measured) -> Iterator[str]:
    one = found.orders["check", True]
    wrong = f"{len(one.wrong)} is" if len(one.wrong) == 1 else f"{len(one.wrong)} are"
    yield (
        f"Right in order of tokens/s per GPU are {one.right} of {one.groups} groups of TP sizes that no fit "
        f'saw; {one.undecided} lie within the band, where a plan says "undecided", and {wrong} wrong.'
    )
