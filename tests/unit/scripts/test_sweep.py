"""A grid of recipes: its points, what is measured again and what is not, and what a failed point leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scripts.flows import sweep as sweep_flow
from scripts.flows import up
from scripts.flows.benching.plan import BenchOptions, Server
from scripts.flows.sweep import Measured, Telling, refuse_failed, run_sweep
from tests.support.servers.scripted import Running
from tests.support.servers.scripted_server import Script, scripted_server
from tpforge.errors import InputRefused, PlanError, UsageError
from tpforge.measure.runs.run import read_run
from tpforge.recipe import Recipe
from tpforge.sweep import read_sweep

GRID = """
name = "grid"
model = "demo"
[limits]
max_seq_len = 512
[sweep]
tp = [1, 3]
limits.max_batch_size = [4, 8]
"repository.num_threads" = [1]
"""
OPTIONS = BenchOptions(num_requests=3, warmup_s=0, num_repeats=1, max_tokens=2)


def write(folder: Path, text: str = GRID) -> Path:
    path = folder / "grid.toml"
    path.write_text(text)
    return path


def test_points_are_every_combination_with_the_first_values_first(tmp_path: Path) -> None:
    sweep = read_sweep(write(tmp_path))
    found = [
        (
            p.recipe.tp,
            p.recipe.limits.max_batch_size,
            p.recipe.limits.max_seq_len,
            p.recipe.repository.num_threads,
        )
        for p in sweep.points
    ]
    assert found == [(1, 4, 512, 1), (1, 8, 512, 1), (3, 4, 512, 1), (3, 8, 512, 1)]
    assert sweep.points[0].name == "tp-1_max_batch_size-4_num_threads-1"
    # What only concerns serving makes no other engine.
    assert [point.recipe.name for point in sweep.points][:2] == [
        "grid-tp-1_max_batch_size-4",
        "grid-tp-1_max_batch_size-8",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('model = "demo"\n', r"has no table \[sweep\]"),
        ('model = "demo"\n[sweep]\ntp = 2\n', "sweep.tp: expected a list"),
        ('model = "demo"\n[sweep]\ntp = []\n', "sweep.tp: expected a list"),
        ('model = "demo"\n[sweep]\ntpp = [1]\n', "did you mean tp"),
        ('model = "demo"\n[sweep]\ntp = ["two"]\n', "the recipe is wrong"),
        ("model = \n", "not valid TOML"),
    ],
)
def test_wrong_grid_is_refused_before_anything_is_built(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_sweep(write(tmp_path, text))


class FakeStages:
    """The stages of a recipe, with a scripted server instead of Triton; tp=3 cannot be built."""

    log: list[str]
    url: str

    def __init__(self, recipe: Recipe, **_: Any) -> None:
        self.recipe = recipe

    def engine(self) -> Any:
        type(self).log.append(f"build {self.recipe.name}")
        if self.recipe.tp == 3:
            raise PlanError("3 heads cannot be divided")
        return type("Places", (), {"engine": Path("engine")})()

    def use_free_ports(self) -> None: ...

    def serve(self, _places: Any) -> str:
        type(self).log.append("serve")
        return type(self).url

    def stop_started(self) -> None:
        type(self).log.append("stop")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    monkeypatch.chdir(tmp_path)
    with scripted_server(tmp_path, Script(ttft_s=0.0, itl_s=0.0)) as running:
        FakeStages.log, FakeStages.url = [], running.url
        monkeypatch.setattr(up, "Run", FakeStages)
        # There is no engine on disk whose manifest could be read.
        monkeypatch.setattr(
            "scripts.flows.benching.plan.find", lambda url, options: Server(url, None, None, None)
        )
        yield running


def sweep_once(path: Path, options: BenchOptions = OPTIONS) -> list[Measured]:
    return run_sweep(
        read_sweep(path),
        options,
        command=("tpforge", "bench", "--sweep"),
        telling=Telling(progress=lambda _: None, note=lambda _: None, on_point=lambda _: None),
    )


def test_failed_point_is_named_and_the_others_are_measured(server: Running, tmp_path: Path) -> None:
    done = sweep_once(write(tmp_path))
    assert [item.outcome for item in done] == ["measured", "measured", "failed", "failed"]
    assert FakeStages.log.count("serve") == 2
    assert FakeStages.log.count("stop") == 4, "a failed point too is stopped"
    with pytest.raises(InputRefused, match=r"2 of 4 points failed:(.|\n)*3 heads cannot be divided"):
        refuse_failed(done)
    summary = json.loads((tmp_path / "out" / "grid" / "sweep.json").read_text())
    assert [point["outcome"] for point in summary["points"]] == [item.outcome for item in done]
    run = read_run(tmp_path / summary["points"][1]["run"])
    assert run.levels[0].num_requests == 3
    assert run.label == "grid tp-1_max_batch_size-8_num_threads-1"


def test_sweep_goes_on_where_it_stopped(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, GRID.replace("[1, 3]", "[1, 2]"))
    real, calls = sweep_flow.bench, []

    def broken_off(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(sweep_flow, "bench", broken_off)
    with pytest.raises(KeyboardInterrupt):
        sweep_once(path)
    assert FakeStages.log[-1] == "stop"
    FakeStages.log.clear()
    again = sweep_once(path)
    assert [item.outcome for item in again] == ["unchanged", "unchanged", "measured", "measured"]
    assert [line for line in FakeStages.log if line.startswith("build")] == [
        "build grid-tp-2_max_batch_size-4",
        "build grid-tp-2_max_batch_size-8",
    ]


def test_another_load_is_measured_again_beside_the_first(server: Running, tmp_path: Path) -> None:
    path = write(tmp_path, GRID.replace("[1, 3]", "[1]").replace("[4, 8]", "[4]"))
    first = sweep_once(path)
    other = sweep_once(path, BenchOptions(num_requests=4, warmup_s=0, num_repeats=1, max_tokens=2))
    assert [item.outcome for item in (*first, *other)] == ["measured", "measured"]
    assert len(list((tmp_path / "out" / "grid" / "runs").iterdir())) == 2


def test_a_point_that_nobody_answered_is_measured_again_and_its_samples_stay(
    server: Running, tmp_path: Path
) -> None:
    path = write(tmp_path, GRID.replace("[1, 3]", "[1]").replace("[4, 8]", "[4]"))
    with scripted_server(tmp_path, Script(refuse_every=1)) as refusing:
        FakeStages.url = refusing.url
        assert [item.outcome for item in sweep_once(path)] == ["failed"]
        assert [item.outcome for item in sweep_once(path)] == ["failed"]
    FakeStages.url = server.url
    assert [item.outcome for item in sweep_once(path)] == ["measured"]
    assert [item.outcome for item in sweep_once(path)] == ["unchanged"]
    kept = sorted(path.name.rpartition("-failed-")[2] for path in (tmp_path / "out/grid/runs").iterdir())
    assert kept[:2] == ["1", "2"] and len(kept) == 3


def test_a_run_that_was_broken_by_hand_is_named_and_the_others_are_measured(
    server: Running, tmp_path: Path
) -> None:
    path = write(tmp_path, GRID.replace("[1, 3]", "[1]"))
    first, _ = sweep_once(path)
    assert first.found is not None
    (first.found.folder / "run.json").write_text("{")
    again = sweep_once(path)
    assert [item.outcome for item in again] == ["failed", "unchanged"]
    assert "is not a run of this version" in str(again[0].error)
