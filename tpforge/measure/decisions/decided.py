"""A decision with the runs that it rests on, put together from what a person says and what was measured.

It writes nothing; what follows from runs is `decision`, the questions of a record are `checklist`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from tpforge import __version__
from tpforge.errors import UsageError
from tpforge.measure.comparison.compare import compare_all
from tpforge.measure.comparison.verdicts import Primary
from tpforge.measure.decisions.checklist import Evidence, fill_checklist
from tpforge.measure.decisions.cost import read_prices
from tpforge.measure.decisions.decision import (
    Decision,
    Request,
    check_choice,
    choice_of,
    findings_of,
    scaling_of,
    speaks_against,
)
from tpforge.measure.evaluation import with_paired_quality
from tpforge.measure.runs.found_runs import FoundRun, pick_run, with_distinct_labels
from tpforge.measure.runs.run import SAMPLES_NAME, read_samples
from tpforge.measure.runs.samples import Sample


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
    chosen = [
        runs.index(pick_run(runs, name, option=option))
        for name, option in ((request.recommend, "--recommend"), (request.fallback, "--fallback"))
    ]
    costs = read_prices(prices, runs)
    runs = with_paired_quality(with_distinct_labels(runs))
    recommended, fallback = (runs[place] for place in chosen)
    check_choice(request, recommended.run, fallback.run)
    everyone = [one.run for one in runs]
    primary = Primary.parse(request.primary)
    comparisons = compare_all(everyone, prices=costs, primary=primary).comparisons
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
        against=speaks_against(recommended.run, others, request, baseline=everyone[0]),
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


def _samples(found: FoundRun) -> tuple[Sample, ...]:
    """The requests of a run; none when the file was not kept beside run.json, as the checklist shows."""
    return read_samples(found.folder) if (found.folder / SAMPLES_NAME).is_file() else ()


def _answered(samples: Sequence[Sample]) -> frozenset[str]:
    return frozenset(sample.prompt_id for sample in samples if sample.is_complete and sample.output_text)
