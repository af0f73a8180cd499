"""An evaluation kept, read again, and compared with that of a baseline.

It asks and scores nothing; what scores mean is `quality`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from tpforge.errors import InputRefused
from tpforge.measure.comparison.gates import GATES, GateResult, check_rows, refuse_unkept, worst
from tpforge.measure.comparison.score_rows import DROP, rows_of_scores
from tpforge.measure.quality import (
    QUALITY_NAME,
    Evaluation,
    greedy_agreement,
    perplexity_increase,
    share_drop,
)
from tpforge.measure.runs.found_runs import FoundRun, find_run
from tpforge.measure.runs.run import RUN_NAME, QualityScore, update_run
from tpforge.outputs.atomic import os_errors, write_atomic
from tpforge.outputs.places import Places, find_engine
from tpforge.outputs.written import renew_record

_GATE = "quality-drop"


@dataclass(frozen=True)
class Baseline:
    """An evaluation to compare with; `id` is that of its run, or the file it lies in."""

    id: str
    evaluation: Evaluation


def against(evaluation: Evaluation, baseline: Baseline) -> Evaluation:
    """The evaluation with the scores that are measured against a baseline, or why they can't be."""
    scores, unavailable = dict(evaluation.scores), dict(evaluation.unavailable)
    before = baseline.evaluation
    if evaluation.passages:
        increase = perplexity_increase(before.passages, evaluation.passages, baseline_id=baseline.id)
        if isinstance(increase, str):
            unavailable["perplexity_increase"] = increase
        else:
            scores["perplexity_increase"] = increase
    if before.prompts_sha256 != evaluation.prompts_sha256:
        unavailable["greedy_agreement"] = "the baseline was asked other prompts"
        unavailable |= {
            f"{name}{DROP}": "the baseline was asked other prompts" for name in evaluation.outcomes
        }
    elif agreement := greedy_agreement(before.answers, evaluation.answers, baseline_id=baseline.id):
        scores["greedy_agreement"] = agreement
        scores |= _drops(evaluation, baseline)
    return evaluation.model_copy(update={"scores": scores, "unavailable": unavailable})


def _drops(evaluation: Evaluation, baseline: Baseline) -> dict[str, QualityScore]:
    """By how much each share dropped, answer by answer, where both know which answers were right."""
    before = baseline.evaluation
    drops = {
        f"{name}{DROP}": share_drop(
            before.outcomes[name],
            right,
            baseline_id=baseline.id,
            answers_are_equal=before.answers == evaluation.answers,
        )
        for name, right in evaluation.outcomes.items()
        if name in before.outcomes
    }
    return {name: drop for name, drop in drops.items() if drop is not None}


def with_paired_quality(runs: Sequence[FoundRun]) -> tuple[FoundRun, ...]:
    """The runs with the scores of each against the first, answer by answer, where both keep their answers.

    Raises:
        InputRefused: a quality.json is broken.
    """
    first, *others = runs
    file = first.folder / QUALITY_NAME
    if not file.is_file():
        return tuple(runs)
    baseline = Baseline(first.run.id, _read(file))
    return (first, *(_paired(one, baseline) for one in others))


def _paired(found: FoundRun, baseline: Baseline) -> FoundRun:
    file = found.folder / QUALITY_NAME
    if not file.is_file() or not found.run.quality:
        return found
    scores = against(_read(file), baseline).scores
    return replace(found, run=found.run.model_copy(update={"quality": {**found.run.quality, **scores}}))


def read_baseline(given: str) -> Baseline:
    """The evaluation kept with a run, beside an engine, or in a file.

    Raises:
        UsageError: there is neither.
        InputRefused: the run was not evaluated, or the file is broken.
    """
    if Path(given).is_file() and Path(given).name != RUN_NAME:
        return Baseline(given, _read(Path(given)))
    kept = default_file(find_engine(given))
    if kept.is_file() and not (Path(given) / RUN_NAME).is_file():
        return Baseline(str(kept), _read(kept))
    found = find_run(given)
    file = found.folder / QUALITY_NAME
    if not file.is_file():
        evaluate = f"tpforge evaluate ENGINE --run {shlex.quote(given)}"
        raise InputRefused(f"{found.folder}: its quality was not measured; run {evaluate} first")
    return Baseline(found.run.id, _read(file))


def default_file(places: Places) -> Path:
    """Where the evaluation of an engine is kept: beside it."""
    return places.stages.with_name(places.stages.name.replace("stages.json", QUALITY_NAME))


def keep(evaluation: Evaluation, file: Path) -> None:
    """Write quality.json."""
    write_atomic(file, evaluation.model_dump_json(indent=2) + "\n")


def keep_with_run(evaluation: Evaluation, found: FoundRun) -> None:
    """Write quality.json into a run's folder, and its scores into run.json.

    Raises:
        InputRefused: the run is of another engine than the evaluated one.
    """
    refuse_other_engine(found, engine=evaluation.engine)
    keep(evaluation, found.folder / QUALITY_NAME)
    renew_record(found.folder, QUALITY_NAME)
    update_run(found.folder, found.run.model_copy(update={"quality": evaluation.scores}))


def refuse_other_engine(found: FoundRun, *, engine: str | None) -> None:
    """Refuse to keep the quality of an engine with a run of another; None is one whose name is not known.

    Raises:
        InputRefused: names both.
    """
    measured = found.run.engine["name"].value
    if engine is not None and measured is not None and measured != engine:
        raise InputRefused(
            f"{found.folder}: is a run of {measured}, but {engine} was evaluated; evaluate {measured}, or "
            "give a run of it"
        )


def apply_limits(
    evaluation: Evaluation, baseline: Baseline | None, *, max_drop: float | None, min_agreement: float | None
) -> None:
    """Refuse a quality that has fallen too far; without a baseline there is nothing to judge.

    Raises:
        InputRefused: nothing of both can be compared.
        RegressionFound: a score was not shown to be within `max_drop`, by the rule of `tpforge compare`, or
            answers agree less than `min_agreement`.
    """
    if baseline is None:
        return
    scores = evaluation.scores
    results = []
    if max_drop is not None:
        rows = rows_of_scores(baseline.evaluation.scores, scores, baseline_id=baseline.id)
        wanted = [row for row in rows if (row.metric, row.statistic) in GATES[_GATE]]
        compared = [row for row in wanted if row.change is not None]
        if not compared:
            raise InputRefused(f"--max-drop: nothing can be compared: {listed(evaluation.unavailable)}")
        results.append(check_rows(compared, _GATE, limit=max_drop, name=evaluation.source))
    if min_agreement is not None:
        if "greedy_agreement" not in scores:
            raise InputRefused(f"--min-agreement: not measured: {listed(evaluation.unavailable)}")
        agreement = scores["greedy_agreement"].value
        said = f"{evaluation.source}: greedy answers agree by {agreement:.1f} % (limit {min_agreement:g})"
        results.append(GateResult(failures=(said,) if agreement < min_agreement else ()))
    refuse_unkept(worst(results))


def _read(file: Path) -> Evaluation:
    with os_errors(file):
        text = file.read_text("utf-8")
    try:
        return Evaluation.model_validate_json(text)
    except ValidationError as error:
        raise InputRefused(f"{file}: is not a {QUALITY_NAME} of this version of tpforge: {error}") from error


def listed(reasons: dict[str, str]) -> str:
    """What could not be had, with its reasons, in a line."""
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "no reason is known"
