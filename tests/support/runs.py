"""Runs made by hand whose metrics are what a test says: a level has repeats, a repeat has requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.support.measured import RUN, WORKLOAD, sample
from tpforge.measure.runs.metrics import count_errors, summarize
from tpforge.measure.runs.run import (
    Fact,
    GpuTelemetry,
    Level,
    QualityScore,
    Repeat,
    Run,
    SeriesSummary,
    Telemetry,
)
from tpforge.measure.runs.samples import Sample

GIB = 1024**3


def level_of(
    ttfts: Sequence[Sequence[float]],
    *,
    concurrency: int = 1,
    durations: Sequence[float] | None = None,
    gap: float = 0.02,
    num_failed: int = 0,
    memory: Mapping[int, tuple[float, float]] | None = None,
    copies: int = 1,
    minutes: Sequence[int] | None = None,
) -> tuple[Level, list[Sample]]:
    """A level with the TTFTs (s) of the requests of each repeat; `memory` has each GPU's least and most.

    A repeat begins at one of `minutes`, without them at 0, 1, 2, as the same repeat of another run does.
    All requests lie within the window. With `copies` there are so many of each, and the window is as many
    times as long: a percentile needs many requests.
    """
    ttfts = [[ttft for ttft in part for _ in range(copies)] for part in ttfts]
    times = [divmod(minute, 60) for minute in minutes or range(len(ttfts))]
    durations = [copies * duration for duration in durations or [2.0] * len(ttfts)]
    samples = [
        sample(
            start=index * max(0.0, durations[repeat] - max(part) - 3 * gap) / len(part),
            ttft=ttft,
            gaps=(gap, gap, gap),
            repeat=repeat,
            index=index,
            error="refused" if index < num_failed else None,
        )
        for repeat, part in enumerate(ttfts)
        for index, ttft in enumerate(part)
    ]
    repeats = tuple(
        Repeat(
            started=f"2026-01-01T{hour:02}:{minute:02}:00+00:00",
            duration_s=duration,
            num_requests=len(part),
            num_completed=len(part) - min(num_failed, len(part)),
        )
        for duration, part, (hour, minute) in zip(durations, ttfts, times, strict=True)
    )
    gpus = tuple(_gpu(index, least, most) for index, (least, most) in (memory or {}).items())
    level = Level(
        name=f"concurrency {concurrency}",
        concurrency=concurrency,
        repeats=repeats,
        metrics=summarize(samples, repeats),
        errors=count_errors(samples),
        telemetry=Telemetry(gpus=gpus),
    )
    return level, samples


def run_of(
    name: str,
    levels: Sequence[Level],
    *,
    engine: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    workload: Mapping[str, Any] | None = None,
    quality: Mapping[str, QualityScore] | None = None,
) -> Run:
    """A run whose facts are those given, and else not read."""
    return RUN.model_copy(
        update={
            "id": name,
            "label": name,
            "engine": {**RUN.engine, **{key: Fact(value=value) for key, value in (engine or {}).items()}},
            "environment": {
                **RUN.environment,
                **{key: Fact(value=value) for key, value in (environment or {}).items()},
            },
            "workload": WORKLOAD.model_copy(update=dict(workload or {})),
            "levels": tuple(levels),
            "quality": dict(quality) if quality is not None else None,
        }
    )


def score(value: float, low: float, high: float, **fields: Any) -> QualityScore:
    """A quality score; higher is better unless told."""
    return QualityScore.model_validate(
        {"value": value, "low": low, "high": high, "unit": "%", "higher_is_better": True, "n": 50, **fields}
    )


def _gpu(index: int, least: float, most: float) -> GpuTelemetry:
    used = SeriesSummary(
        unit="bytes", avg=(least + most) / 2, min=least, max=most, first=least, last=most, count=20
    )
    return GpuTelemetry(index=index, name="made up", uuid=f"GPU-{index}", series={"memory_used": used})
