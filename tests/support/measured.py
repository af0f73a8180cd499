"""A run with its samples, made by hand, for tests of what is done with runs."""

from __future__ import annotations

from collections.abc import Sequence

from tpforge.measure.runs.metrics import count_errors, summarize
from tpforge.measure.runs.run import (
    ENGINE_FIELDS,
    ENVIRONMENT_FIELDS,
    Fact,
    Level,
    Repeat,
    Run,
    Slo,
    Workload,
    unavailable_facts,
)
from tpforge.measure.runs.samples import ErrorKind, Sample


def sample(
    *,
    start: float = 0.0,
    ttft: float = 0.1,
    gaps: Sequence[float] = (0.02, 0.02, 0.02),
    repeat: int = 0,
    index: int = 0,
    error: ErrorKind | None = None,
) -> Sample:
    """A request with a token after `ttft` and one more after each of `gaps` (seconds)."""
    times = [start + ttft]
    for gap in gaps:
        times.append(times[-1] + gap)
    return Sample(
        level=0,
        repeat=repeat,
        index=index,
        prompt_id=f"p{index}",
        scheduled_s=start,
        sent_s=start,
        first_token_s=times[0],
        token_times_s=tuple(times),
        last_s=times[-1],
        ended_s=times[-1],
        input_tokens=8,
        output_tokens=len(times),
        error_kind=error,
        error="it broke" if error else None,
    )


SAMPLES = tuple(
    sample(start=index * 0.5, ttft=0.1 + 0.01 * repeat, repeat=repeat, index=index)
    for repeat in range(3)
    for index in range(4)
)
REPEATS = tuple(
    Repeat(started="2026-01-01T00:00:00+00:00", duration_s=2.0, num_requests=4, num_completed=4)
    for _ in range(3)
)
WORKLOAD = Workload(
    target="triton",
    model="ensemble",
    url="localhost:8001",
    loop="closed",
    arrival="concurrency",
    prompts="synthetic",
    prompts_sha256="0" * 64,
    num_prompts=4,
    duration_s=2.0,
    num_repeats=3,
    deadline_s=60,
    seed=1,
    token_source="tokenizer",
    slo=Slo(ttft_ms=115, itl_ms=40),
)
LEVEL = Level(
    name="concurrency 1",
    concurrency=1,
    repeats=REPEATS,
    metrics=summarize(SAMPLES, REPEATS, slo=WORKLOAD.slo),
    errors=count_errors(SAMPLES),
)
RUN = Run(
    id="made-by-hand",
    created="2026-01-01T00:00:00+00:00",
    label="by hand",
    command=("tpforge", "bench"),
    engine={**unavailable_facts(ENGINE_FIELDS, "made by hand"), "tp": Fact(value=2)},
    environment=unavailable_facts(ENVIRONMENT_FIELDS, "made by hand"),
    workload=WORKLOAD,
    levels=(LEVEL,),
)
