"""Shows a measurement: a line while it runs, with TTFT and tokens a second of the moment, and its table."""

from __future__ import annotations

import json
import statistics
import sys
import time
from bisect import bisect
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

from scripts.cli.output import Output
from scripts.reports.columns import table
from tpforge.measure.runs.metrics import NUM_FOR_TAIL
from tpforge.units import counted

if TYPE_CHECKING:
    from scripts.flows.bench import Bench
    from scripts.flows.benching.plan import BenchOptions
    from scripts.flows.sweep import Measured
    from tpforge.measure.runs.run import Level
    from tpforge.measure.runs.samples import MetricSummary
    from tpforge.sweep import Sweep
    from triton_repo.load.measuring import RunPosition

_BAR_WIDTH = 20
_FEW = "few"
_TIMES = ("time_to_first_token", "inter_token_latency")
_LINE_PERIOD_S = 5.0
_RECENT_S = 5.0
_NEWEST = 1000
_HEADER = (
    "load",
    "requests",
    "failed",
    "TTFT p50",
    "p95",
    "ITL p50",
    "p95",
    "tokens/s",
    "requests/s",
    "good",
)
_PROMPTS = {
    "new": "prompts: none was asked twice",
    "warm": "prompts: each was asked once before, so that a server that keeps prompts knows them",
    "repeated": "prompts: asked again and again",
}


def first_tokens(recent: Sequence[float], *, any_before: bool) -> str:
    """The median time to the answers that began of late; a long answer goes on without a new one."""
    if recent:
        return f"TTFT {statistics.median(recent) * 1e3:.0f} ms"
    return "no new answer" if any_before else "no token yet"


class BenchMeter:
    """Called about twice a second with where the run is; prints as often as the output can bear."""

    def __init__(self, output: Output, options: BenchOptions) -> None:
        self._output, self._options = output, options
        self._on_terminal = sys.stderr.isatty()
        self._shown = 0.0

    def __call__(self, progress: RunPosition) -> None:
        """Show it, when it is time to."""
        now = time.monotonic()
        if self._on_terminal or now - self._shown >= _LINE_PERIOD_S:
            self._shown = now
            self._output.progress(self._text(progress, now))

    def _text(self, progress: RunPosition, now: float) -> str:
        repetition = progress.repetition
        # The newest only: this runs between two tokens, and a long run has many requests.
        newest = [item for item in islice(reversed(repetition.exchanges), _NEWEST) if item.arrivals]
        since = now - _RECENT_S
        tokens = sum(len(item.arrivals) - bisect(item.arrivals, since) for item in newest)
        firsts = [(item.scheduled, item.arrivals[item.num_before_tokens :][:1]) for item in newest]
        ttft = [at - scheduled for scheduled, first in firsts for at in first if at > since]
        in_flight = len(repetition.exchanges) - repetition.num_ended
        parts = [
            f"{progress.level} ({progress.level_index + 1}/{progress.num_levels})",
            f"repeat {progress.repeat + 1}/{progress.num_repeats}",
            f"{now - repetition.begun:.0f} s",
            first_tokens(ttft, any_before=any(first for _, first in firsts)),
            f"{tokens / min(_RECENT_S, now - repetition.begun):.0f} tokens/s",
            f"{repetition.num_ended} done, {in_flight} in flight",
        ]
        if repetition.num_failed:
            parts.append(f"{repetition.num_failed} failed")
        bar = self._bar(progress, now) if self._on_terminal else ""
        return bar + "  ".join(parts)

    def _bar(self, progress: RunPosition, now: float) -> str:
        """How much of all levels and repeats is done, as far as it can be told."""
        from scripts.flows.benching.plan import duration

        options = self._options
        whole = duration(options)
        if whole is not None:
            share = (now - progress.repetition.begun) / (whole + options.warmup_s)
        elif options.num_requests is not None:
            share = progress.repetition.num_ended / options.num_requests
        else:
            return ""
        before = progress.level_index * progress.num_repeats + progress.repeat
        done = (before + min(1.0, share)) / (progress.num_levels * progress.num_repeats)
        filled = int(_BAR_WIDTH * done)
        return f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] "


def print_run(output: Output, found: Bench) -> None:
    """The table of a run, what someone should look at, and where it lies."""
    run = found.run
    rows = [_row(level) for level in run.levels]
    output.result(table(rows, header=_HEADER))
    for line in _legend(run.levels, prompt_use=run.workload.prompt_use):
        output.result(line)
    for level in run.levels:
        for kind, count in level.errors.items():
            output.note(f"{level.name}: {counted(count, 'request')} failed: {kind}")
        for note in level.telemetry.notes:
            output.note(f"{level.name}: {note}")
    for source, reason in run.levels[0].telemetry.unavailable.items():
        output.note(f"no telemetry of {source}: {reason}")
    for note in run.notes:
        output.note(note)
    if run.interrupted:
        output.note("interrupted: what was measured until then is kept")
    output.result(str(found.folder))
    output.record("bench", {"folder": str(found.folder), "run": json.loads(run.model_dump_json())})


def print_point(output: Output, item: Measured) -> None:
    """A point of a sweep as it ends."""
    said = item.error or (item.found.folder if item.found else "")
    output.note(f"{item.point.name}: {item.outcome}: {said}")


def print_sweep(output: Output, sweep: Sweep, done: Sequence[Measured]) -> None:
    """All points of a sweep, a row a load, and where their list lies."""
    from scripts.flows.sweep import point_record

    rows = []
    for item in done:
        if item.found is None:
            rows.append([item.point.name, item.outcome, *["-"] * (len(_HEADER) - 1)])
        else:
            rows += [[item.point.name, *_row(level)] for level in item.found.run.levels]
    output.result(table(rows, header=("point", *_HEADER)))
    runs = [item.found.run for item in done if item.found is not None]
    for line in _legend([level for run in runs for level in run.levels]):
        output.result(line)
    output.result(str(sweep.summary))
    output.record("sweep", {"name": sweep.name, "points": [point_record(item) for item in done]})


def _row(level: Level) -> list[str]:
    metrics = level.metrics
    good = metrics.get("good_request_fraction")
    return [
        level.name,
        str(level.num_requests),
        str(level.num_failed),
        *_percentiles(level, "time_to_first_token"),
        *_percentiles(level, "inter_token_latency"),
        _with_interval(metrics.get("output_token_throughput")),
        _with_interval(metrics.get("request_throughput")),
        f"{100 * good.avg:.0f} %" if good else "-",
    ]


def _legend(levels: Sequence[Level], *, prompt_use: str | None = None) -> list[str]:
    """What the numbers of a table are."""
    lines = ["times in ms; tokens/s and requests/s with their 95 % intervals over repeats"]
    if any(level.num_failed for level in levels):
        lines.append("a request that failed counts as infinitely late: inf is a percentile that it reaches")
    cells = [cell for level in levels for name in _TIMES for cell in _percentiles(level, name)]
    if _FEW in cells:
        lines.append(f"{_FEW}: fewer requests than such a percentile takes; a p95 takes {NUM_FOR_TAIL * 20}")
    return lines + ([_PROMPTS[prompt_use]] if prompt_use else [])


def _percentiles(level: Level, name: str) -> tuple[str, str]:
    """The median and the p95, failures included where there are any."""
    metric = level.metrics.get(f"adj_{name}") or level.metrics.get(name)
    if metric is None or metric.p50 is None:
        return "-", "-"
    return f"{metric.p50:.1f}", _FEW if metric.p95 is None else f"{metric.p95:.1f}"


def _with_interval(metric: MetricSummary | None) -> str:
    if metric is None:
        return "-"
    interval = metric.interval
    if interval is None:
        return f"{metric.avg:.4g}"
    return f"{metric.avg:.4g} [{interval.low:.4g}, {interval.high:.4g}]"
