"""Runs as a person names them, and the prices that are given for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runs import level_of, run_of
from tpforge.errors import UsageError
from tpforge.measure.comparison.compare import compare_all
from tpforge.measure.decisions.cost import read_prices
from tpforge.measure.runs.found_runs import FoundRun, find_run, find_runs, pick_run
from tpforge.measure.runs.run import write_run


def keep(root: Path, engine: str, name: str) -> FoundRun:
    level, samples = level_of([[0.1, 0.1]], concurrency=1)
    run = run_of(name, [level], engine={"name": engine})
    folder = root / engine / "runs" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_run(folder, run, samples)
    return FoundRun(folder, run)


def test_a_run_is_found_by_folder_file_and_id(tmp_path: Path) -> None:
    one = keep(tmp_path, "small", "a-1")
    for given in (str(one.folder), str(one.folder / "run.json"), "a-1"):
        assert find_run(given, root=tmp_path) == one
    with pytest.raises(UsageError, match=r"b-1: no such run; under .* there are: a-1"):
        find_run("b-1", root=tmp_path)
    with pytest.raises(UsageError, match="a-1: given more than once"):
        find_runs(["a-1", str(one.folder)], root=tmp_path)
    for odd in ("a**1", "[a", "a-*"):
        with pytest.raises(UsageError, match="no such run; under"):
            find_run(odd, root=tmp_path)


def test_runs_in_folders_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    # `bench --out tp1/run`, `bench --out tp2/run`: the id is the folder's name.
    first, second = keep(tmp_path, "small", "run"), keep(tmp_path, "large", "run")
    runs = find_runs([str(first.folder), str(second.folder)], root=tmp_path)
    assert [one.run.id for one in runs] == [str(first.folder), str(second.folder)]
    assert [one.run.engine["name"].value for one in runs] == ["small", "large"]
    assert len(compare_all([one.run for one in runs], prices={}).comparisons) == 1
    with pytest.raises(UsageError, match="run: given more than once"):
        find_runs([str(first.folder), f"{tmp_path}/large/../small/runs/run"], root=tmp_path)


def test_a_run_is_picked_by_what_sets_it_apart(tmp_path: Path) -> None:
    first, second = keep(tmp_path, "small", "a-1"), keep(tmp_path, "large", "b-1")
    runs = (first, second)
    assert pick_run(runs, "large", option="--recommend") == second
    assert pick_run(runs, str(first.folder), option="--recommend") == first
    for spelt in (f"{first.folder}/", f"{first.folder}/run.json", f"{second.folder}/../../../small/runs/a-1"):
        assert pick_run(runs, spelt, option="--recommend") == first
    with pytest.raises(UsageError, match="--recommend other: was not measured: no run has this name"):
        pick_run(runs, "other", option="--recommend")
    with pytest.raises(UsageError, match="--recommend small: fits 2 runs"):
        pick_run((first, keep(tmp_path, "small", "a-2")), "small", option="--recommend")


def test_a_price_is_of_one_run_or_of_all(tmp_path: Path) -> None:
    runs = (keep(tmp_path, "small", "a-1"), keep(tmp_path, "large", "b-1"))
    assert read_prices(["2.5", "large=4"], runs) == {"a-1": 2.5, "b-1": 4.0}
    for wrong, said in (
        ("x", "expected AMOUNT"),
        ("0", "above zero"),
        ("inf", "above zero"),
        ("c=1", "no run has this name"),
    ):
        with pytest.raises(UsageError, match=f"--hourly-cost {wrong.split('=')[0]}.*{said}"):
            read_prices([wrong], runs)
