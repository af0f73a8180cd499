"""Load on scripted servers under a virtual clock, for all tests of what is measured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support.servers.virtual_openai import Script, measure_virtually, prompts_of
from tpforge.measure.runs.run import Level
from triton_repo.load.measuring import Measured, Plan
from triton_repo.load.runner import Extent
from triton_repo.load.schedule import Load

TOKENS = 64
"""What every prompt asks for, unless a test says otherwise."""

Put = Callable[..., Measured]


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Put:
    """Measure a script: `put(script, load, duration_s=20.0, ...)`."""

    def put(script: Script, load: Load, **options: object) -> Measured:
        extent = {
            name: options.pop(name) for name in ("warmup_s", "duration_s", "num_requests") if name in options
        }
        more = {name: options.pop(name) for name in ("dies_at", "options") if name in options}
        options.setdefault("prompts", prompts_of(4, tokens=TOKENS))
        plan = Plan(loads=(load,), extent=Extent(**extent), **options)  # type: ignore[arg-type]
        return measure_virtually(monkeypatch, script, plan, **more)  # type: ignore[arg-type]

    return put


def value(level: Level, name: str, statistic: str = "avg") -> float:
    """A statistic of a metric."""
    found: float = getattr(level.metrics[name], statistic)
    return found
