"""A decision put together from runs and written: composes tpforge.measure and the reports.

It prints nothing; what follows from runs is `tpforge.measure.decision`, the page `scripts.reports.decision`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from scripts.flows.compare import FoundRun, compare, pick_run, read_prices
from tpforge import __version__
from tpforge.atomic import atomic_folder
from tpforge.errors import UsageError
from tpforge.measure.checklist import Evidence, fill_checklist
from tpforge.measure.decision import (
    DECISION_NAME,
    Decision,
    Request,
    check_choice,
    choice_of,
    findings_of,
    scaling_of,
    speaks_against,
)
from tpforge.measure.run import SAMPLES_NAME, read_samples
from tpforge.measure.samples import Sample


@dataclass(frozen=True)
class Decided:
    """A decision with the runs and samples that its page shows."""

    decision: Decision
    runs: tuple[FoundRun, ...]
    recommended: FoundRun
    fallback: FoundRun
    samples: dict[str, tuple[Sample, ...]]


def decide(runs: Sequence[FoundRun], request: Request, *, prices: Sequence[str] = ()) -> Decided:
    """The record of a decision between `runs`; the first is the baseline.

    Raises:
        UsageError: a run that is meant was not measured, or the fallback is the recommendation.
        InputRefused: not one request of a run that is meant was answered.
    """
    if len(runs) < 2:
        raise UsageError("a decision needs at least two runs: the baseline, then the options")
    recommended = pick_run(runs, request.recommend, option="--recommend")
    fallback = pick_run(runs, request.fallback, option="--fallback")
    check_choice(request, recommended.run, fallback.run)
    costs = read_prices(prices, runs)
    comparisons = compare(runs, prices=costs).comparisons
    everyone = [one.run for one in runs]
    names = {run.id: run.label for run in everyone}
    samples = {one.run.id: _samples(one) for one in runs}
    evidence = Evidence(
        request=request,
        baseline=everyone[0],
        recommended=recommended.run,
        runs=everyone,
        comparisons=comparisons,
        outputs={name: _answered(found) for name, found in samples.items()},
        prices=costs,
    )
    others = [run for run in everyone if run.id != recommended.run.id]
    decision = Decision(
        tpforge_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        request=request,
        baseline=everyone[0].id,
        runs=tuple(names),
        comparisons=comparisons,
        scaling=scaling_of(everyone[0], everyone),
        findings=tuple(findings_of(comparison, names=names) for comparison in comparisons),
        against=speaks_against(recommended.run, others, request),
        risks=tuple(
            f"{names[comparison.candidate]}: {risk}"
            for comparison in comparisons
            for risk in comparison.risks
        ),
        checklist=fill_checklist(evidence),
        prices_per_hour=costs,
        recommended=choice_of(recommended.run),
        fallback=choice_of(fallback.run),
    )
    return Decided(decision, tuple(runs), recommended, fallback, samples)


def write_decision(folder: Path, decided: Decided, *, force: bool = False) -> None:
    """Write decision.json, .md and .html into a folder, which appears whole.

    Raises:
        InputRefused: the folder exists and `force` is not given.
    """
    from scripts.reports.decision import decision_html, decision_markdown

    with atomic_folder(folder, force=force) as partial:
        texts = {
            DECISION_NAME: decided.decision.model_dump_json(indent=2) + "\n",
            "decision.md": decision_markdown(decided),
            "decision.html": decision_html(decided),
        }
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")


def _samples(found: FoundRun) -> tuple[Sample, ...]:
    """The requests of a run; none when the file was not kept beside run.json, as the checklist shows."""
    return read_samples(found.folder) if (found.folder / SAMPLES_NAME).is_file() else ()


def _answered(samples: Sequence[Sample]) -> frozenset[str]:
    return frozenset(sample.prompt_id for sample in samples if sample.is_complete and sample.output_text)
