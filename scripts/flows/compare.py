"""Runs found and compared, and the comparison written: composes tpforge.measure and the reports.

It prints nothing; what is compared is `tpforge.measure.compare`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tpforge import __version__
from tpforge.atomic import atomic_folder, os_errors
from tpforge.errors import InputRefused, RegressionFound, UsageError
from tpforge.measure.compare import Comparison, ComparisonSet, compare_runs
from tpforge.measure.expected import with_predictions
from tpforge.measure.gates import GateResult, check_gates, worst
from tpforge.measure.run import RUN_NAME, Run, read_run
from tpforge.places import OUT
from tpforge.plan.record import PlanRecord


@dataclass(frozen=True)
class FoundRun:
    """A run and the folder it lies in."""

    folder: Path
    run: Run


def find_run(given: str, *, root: Path = OUT) -> FoundRun:
    """The run in a folder, or the one of that id under out/NAME/runs/.

    Raises:
        UsageError: there is no such run; those that exist are named.
        InputRefused: its run.json is broken.
    """
    for folder in (Path(given), *sorted(root.glob(f"*/runs/{given}"))):
        if (folder / RUN_NAME).is_file():
            return FoundRun(folder, read_run(folder))
        if folder.is_file() and folder.name == RUN_NAME:
            return FoundRun(folder.parent, read_run(folder))
    known = sorted(path.parent.name for path in root.glob(f"*/runs/*/{RUN_NAME}"))
    there = f"under {root}/ there are: {', '.join(known)}" if known else f"there are none under {root}/"
    raise UsageError(f"{given}: no such run; {there}; `tpforge bench` makes one")


def find_runs(given: Sequence[str], *, root: Path = OUT) -> tuple[FoundRun, ...]:
    """Several runs, each another one.

    Raises:
        UsageError: a run is missing, or two have the same id.
    """
    found = tuple(find_run(name, root=root) for name in given)
    ids = [one.run.id for one in found]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise UsageError(f"{', '.join(twice)}: given more than once; a comparison needs different runs")
    return found


def pick_run(runs: Sequence[FoundRun], given: str, *, option: str) -> FoundRun:
    """The one of `runs` with this id, label, engine name or folder.

    Raises:
        UsageError: none or several fit.
    """
    fitting = [
        one
        for one in runs
        if given in (one.run.id, one.run.label, one.run.engine["name"].value, str(one.folder))
    ]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(f"{one.run.id} ({one.run.label})" for one in runs)
    if fitting:
        raise UsageError(f"{option} {given}: fits {len(fitting)} runs; give the id of one: {known}")
    raise UsageError(f"{option} {given}: was not measured: none of the runs is called so: {known}")


def read_prices(given: Sequence[str], runs: Sequence[FoundRun]) -> dict[str, float]:
    """The price of an hour by the id of a run: ``AMOUNT`` for all of them, or ``RUN=AMOUNT``.

    Raises:
        UsageError: an amount is no number above zero, or the run is not one of these.
    """
    prices: dict[str, float] = {}
    for text in given:
        name, equals, amount = text.rpartition("=")
        try:
            price = float(amount)
        except ValueError:
            raise UsageError(f"--hourly-cost {text}: expected AMOUNT or RUN=AMOUNT, such as 2.50") from None
        if not 0 < price < float("inf"):
            raise UsageError(f"--hourly-cost {text}: a price is above zero")
        chosen = [pick_run(runs, name, option="--hourly-cost")] if equals else list(runs)
        prices |= {one.run.id: price for one in chosen}
    return prices


def read_plan(path: Path) -> PlanRecord:
    """The plan that `tpforge plan --json` printed.

    Raises:
        InputRefused: the file is missing or is no plan of this version.
    """
    if not path.is_file():
        raise InputRefused(
            f"{path}: no such file; make one with: tpforge plan MODEL --gpu NAME --json > {path}"
        )
    with os_errors(path):
        text = path.read_text("utf-8")
    try:
        value = json.loads(text)
        fields = {key: item for key, item in value.items() if key not in ("schema_version", "kind")}
        return PlanRecord.model_validate(fields)
    except (ValueError, AttributeError) as error:
        raise InputRefused(f"{path}: is not what tpforge plan --json prints: {error}") from error


def with_plan(runs: Sequence[FoundRun], plan: PlanRecord) -> tuple[tuple[FoundRun, ...], tuple[str, ...]]:
    """The runs with what the plan expected of them, and what it says nothing of."""
    found, notes = [], []
    for one in runs:
        run, note = with_predictions(one.run, plan)
        found.append(FoundRun(one.folder, run))
        notes += [note] if note else []
    return tuple(found), tuple(notes)


def compare(runs: Sequence[FoundRun], *, prices: Mapping[str, float]) -> ComparisonSet:
    """Every run against the first.

    Raises:
        UsageError: fewer than two runs were given.
    """
    if len(runs) < 2:
        raise UsageError("a comparison needs at least two runs: the baseline, then the candidates")
    baseline, *candidates = (one.run for one in runs)
    return ComparisonSet(
        tpforge_version=__version__,
        prices_per_hour=dict(prices),
        comparisons=tuple(compare_runs(baseline, candidate, prices=prices) for candidate in candidates),
    )


def write_comparison(
    folder: Path, found: ComparisonSet, runs: Sequence[FoundRun], *, force: bool = False
) -> None:
    """Write comparison.json, .md and .html into a folder, which appears whole.

    Raises:
        InputRefused: the folder exists and `force` is not given.
    """
    from scripts.reports.comparison import comparison_html, comparison_markdown

    by_id = {one.run.id: one.run for one in runs}
    with atomic_folder(folder, force=force) as partial:
        texts = {
            "comparison.json": found.model_dump_json(indent=2) + "\n",
            "comparison.md": comparison_markdown(found, by_id),
            "comparison.html": comparison_html(found, by_id),
        }
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")


def apply_gates(comparisons: Sequence[Comparison], limits: Mapping[str, float]) -> GateResult:
    """The result of every gate; what may be chance is in it for the caller to say.

    Raises:
        RegressionFound: a loss is beyond its limit; all are listed.
        InputRefused: a gate could not be checked, so that it must not look as if it had held.
    """
    result = worst([check_gates(comparison, limits) for comparison in comparisons])
    if result.failures:
        raise RegressionFound("\n  ".join(["worse than allowed:", *result.failures]))
    if result.unchecked:
        raise InputRefused("\n  ".join(["a limit could not be checked:", *result.unchecked]))
    return result
