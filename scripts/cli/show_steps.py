"""Shows the steps of `tpforge up` and `demo`, each with its time and result. It takes none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.cli.output import Output
from scripts.reports.columns import table

if TYPE_CHECKING:
    from scripts.flows.up import Stage


def print_steps(output: Output, done: list[Stage]) -> None:
    """The table of what was done."""
    from scripts.flows.up import stage_rows

    if done:
        output.result(table(stage_rows(done), header=("stage", "time", "result")))


def step_records(done: list[Stage]) -> list[dict[str, object]]:
    """The stages for --json."""
    return [
        {
            "name": stage.name,
            "seconds": round(stage.seconds, 3),
            "result": stage.result,
            "outcome": stage.outcome,
        }
        for stage in done
    ]
