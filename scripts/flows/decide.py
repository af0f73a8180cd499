"""From the names of runs to a decision and its pages: composes tpforge.measure and the reports.

It prints nothing; what is decided is `tpforge.measure.decisions.decided`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scripts.reports.decision import decision_html, decision_markdown
from tpforge.measure.decisions.decided import Decided
from tpforge.measure.decisions.decided import decide as decide_between
from tpforge.measure.decisions.decision import DECISION_NAME, Request
from tpforge.measure.runs.found_runs import find_runs
from tpforge.outputs.atomic import write_texts


def decide(names: Sequence[str], request: Request, *, prices: Sequence[str] = ()) -> Decided:
    """The decision between the runs of these names; the first is the baseline.

    Raises:
        UsageError, InputRefused: as `find_runs` and `tpforge.measure.decisions.decided.decide`.
    """
    return decide_between(find_runs(names), request, prices=prices)


def write_decision(folder: Path, decided: Decided, *, force: bool = False) -> None:
    """Write decision.json, .md and .html into a folder, which appears whole.

    Raises:
        InputRefused: the folder exists and `force` is not given.
    """
    texts = {
        DECISION_NAME: decided.decision.model_dump_json(indent=2) + "\n",
        "decision.md": decision_markdown(decided),
        "decision.html": decision_html(decided),
    }
    write_texts(folder, texts, force=force)
