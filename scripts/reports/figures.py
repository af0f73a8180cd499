"""The plots of a decision: what each run measured, drawn by `svg`.

Points are what run.json and samples.jsonl hold; intervals are those of the means over repeats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scripts.reports.page import inline
from scripts.reports.svg import Bar, Point, Series, bar_plot, line_plot
from tpforge.measure.comparison.level_rows import fullest_gpu, measured
from tpforge.measure.decisions.decision import Decision, num_ranks, tokens_per_second
from tpforge.measure.runs.latencies import request_latency
from tpforge.measure.runs.run import Level, Run
from tpforge.measure.runs.samples import Sample, Statistic
from tpforge.units import format_bytes

_MOST_POINTS = 300


@dataclass(frozen=True)
class Figure:
    """A plot with what it shows."""

    caption: str
    svg: str


def figures(
    decision: Decision, runs: Sequence[Run], samples: Mapping[str, Sequence[Sample]]
) -> tuple[Figure, ...]:
    """All plots of a decision, in the order of its page."""
    limits = decision.request.limits
    ttft = [("limit", limits.ttft_p95_ms)] if limits.ttft_p95_ms is not None else []
    speed = [("limit", limits.min_tokens_per_second)] if limits.min_tokens_per_second is not None else []
    level = busiest_common_level(runs)
    return (
        _figure("Throughput against the p95 of time to first token", _throughput_against_tail(runs, ttft)),
        _figure(
            "Time to first token by load, mean and 95 % interval",
            _by_load(runs, "time_to_first_token", "avg", "mean TTFT, ms"),
        ),
        _figure(
            "Throughput by load, mean and 95 % interval",
            _by_load(runs, "output_token_throughput", "avg", "output tokens/s", speed),
        ),
        _figure("Memory under load", _memory(runs)),
        _figure("Scaling efficiency: speedup by added ranks, 1 is linear", _efficiency(decision, runs)),
        _figure(
            f"Latency of requests over time, {level}" if level else "Latency of requests over time",
            _over_time(runs, samples, level),
        ),
    )


def busiest_common_level(runs: Sequence[Run]) -> str | None:
    """The name of the highest load that all runs were put under."""
    shared = set.intersection(*({level.name for level in run.levels} for run in runs)) if runs else set()
    levels = [level for run in runs[:1] for level in run.levels if level.name in shared]
    return max(levels, key=_load, default=None).name if levels else None  # type: ignore[union-attr]


def _load(level: Level) -> float:
    return level.concurrency or level.rate_per_s or 0.0


def _figure(caption: str, svg: str) -> Figure:
    return Figure(caption, inline(svg))


def _throughput_against_tail(runs: Sequence[Run], limits: Sequence[tuple[str, float]]) -> str:
    series = []
    for run in runs:
        points = []
        for level in run.levels:
            speed, tail = tokens_per_second(level), level.metrics.get("time_to_first_token")
            if speed is not None and tail is not None and tail.p95 is not None:
                points.append(Point(speed.value, tail.p95, label=level.name))
        series.append(Series(run.label, tuple(points)))
    return line_plot(
        series,
        title="Throughput against p95 TTFT",
        x_label="output tokens/s",
        y_label="TTFT p95, ms",
        limits=limits,
    )


def _by_load(
    runs: Sequence[Run],
    metric: str,
    statistic: Statistic,
    y_label: str,
    limits: Sequence[tuple[str, float]] = (),
) -> str:
    series = []
    closed = all(level.concurrency is not None for run in runs for level in run.levels)
    for run in runs:
        points = []
        for level in run.levels:
            side = measured(level.metrics[metric], statistic) if metric in level.metrics else None
            if side is not None and _load(level) > 0:
                low = None if side.low is None else max(side.low, 0.0)
                points.append(Point(_load(level), side.value, low, side.high))
        series.append(Series(run.label, tuple(points)))
    x_label = "requests at once" if closed else "requests/s"
    return line_plot(
        series, title=y_label, x_label=x_label, y_label=y_label, x_scale="categories", limits=limits
    )


def _memory(runs: Sequence[Run]) -> str:
    """Each run's GPUs, at the level that used most of them; without GPUs the machine's memory."""
    bars = []
    for run in runs:
        level = max(run.levels, key=lambda one: used.max if (used := fullest_gpu(one)) else 0.0)
        for gpu in level.telemetry.gpus:
            if series := gpu.series.get("memory_used"):
                bars.append(_memory_bar(f"{run.label}, GPU {gpu.index}", series.max))
    label = "GiB of each GPU, the most that was read"
    if not bars:
        label = "GiB of the whole machine and all that runs on it (no GPU)"
        for run in runs:
            most = [
                level.telemetry.host["memory_used"].max
                for level in run.levels
                if "memory_used" in level.telemetry.host
            ]
            bars += [_memory_bar(run.label, max(most))] if most else []
    return bar_plot(bars, title="Memory under load", x_label=label)


def _memory_bar(name: str, num_bytes: float) -> Bar:
    return Bar(name, (("memory", num_bytes / 2**30),), format_bytes(round(num_bytes)))


def _efficiency(decision: Decision, runs: Sequence[Run]) -> str:
    """One line per level over the ranks; runs of other weights than the baseline are points of their own."""
    by_id = {run.id: run for run in runs}
    baseline = by_id[decision.baseline]
    names = list(dict.fromkeys(item.level for item in decision.scaling))
    series = []
    for level in names:
        points = [
            Point(item.num_ranks, item.efficiency, label=by_id[item.run].label)
            for item in decision.scaling
            if item.level == level and _same_weights(by_id[item.run], baseline)
        ]
        series.append(Series(level, tuple(sorted(points, key=lambda point: point.x))))
    if num_ranks(baseline) is None or all(len(item.points) < 2 for item in series):
        series = []
    return line_plot(
        series,
        title="Scaling efficiency",
        x_label="ranks",
        y_label="efficiency",
        x_scale="categories",
        limits=(("linear", 1.0),),
    )


def _same_weights(run: Run, baseline: Run) -> bool:
    return all(
        run.engine[name].value == baseline.engine[name].value
        for name in ("model", "precision", "quantization")
    )


def _over_time(runs: Sequence[Run], samples: Mapping[str, Sequence[Sample]], level: str | None) -> str:
    series = []
    for run in runs:
        number = next((index for index, one in enumerate(run.levels) if one.name == level), None)
        asked = [
            sample
            for sample in samples.get(run.id, ())
            if sample.level == number and sample.is_complete and sample.phase == "measured"
        ]
        stride = max(1, -(-len(asked) // _MOST_POINTS))
        points = [
            Point(sample.scheduled_s, latency[0] / 1e3, label=sample.prompt_id)
            for sample in asked[::stride]
            if (latency := request_latency(sample))
        ]
        series.append(Series(run.label, tuple(points), joined=False))
    return line_plot(
        series,
        title="Latency of requests over time",
        x_label="seconds since the repeat began",
        y_label="request latency, s",
    )
