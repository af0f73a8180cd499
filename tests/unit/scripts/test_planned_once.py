"""A conversion is planned once, whichever verb asks for it, and what is written is what was planned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from builders.conversion import planned
from builders.conversion.planned import plan_conversion, with_kv_scales
from builders.sources.models import open_model
from scripts.flows import build
from scripts.main import main
from tests.support.servers.standin_trtllm_build import write_standin
from tests.support.tiny import write_tiny_llama
from tests.unit.triton_repo.serve.test_tensorrt_launch import host_of
from tpforge.errors import InputRefused
from tpforge.quantization import Quantization
from tpforge.recipe import EngineRecipe
from tpforge.shards.mapping import Mapping


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return write_tiny_llama(tmp_path / "tiny-llama")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was called of planning, in order."""
    made: list[str] = []

    def counted(name: str) -> None:
        function = getattr(planned, name)

        def call(*arguments: Any, **options: Any) -> Any:
            made.append(name)
            return function(*arguments, **options)

        monkeypatch.setattr(planned, name, call)

    for name in ("audit", "plan_shards", "plan_rank_files"):
        counted(name)
    return made


ONCE = ["audit", "plan_shards", "plan_rank_files"]


@pytest.mark.parametrize(
    "command", [["convert"], ["convert", "--dry-run"], ["build"], ["build", "--quantize", "int8_wo"]]
)
def test_convert_and_build_plan_once(model: Path, calls: list[str], command: list[str]) -> None:
    verb, *options = command
    assert main([verb, str(model), "--tp", "2", *options]) == 0
    assert calls == ONCE


def test_compiled_engines_are_planned_once_and_kept(
    model: Path, calls: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_standin(tmp_path / "bin")
    monkeypatch.setattr("engines.host.find_host", lambda: host_of(packages=()))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    recipe = EngineRecipe(model=str(model), tp=2, runtime="tensorrt", sm=90)
    built = build.fresh_engine(recipe, progress=print)
    assert (built.reused, calls) == (False, ONCE)
    assert build.fresh_engine(recipe, progress=print).reused
    other = recipe.model_copy(
        update={"tensorrt": recipe.tensorrt.model_copy(update={"optimize_for": "memory"})}
    )
    assert not build.fresh_engine(other, progress=print).reused


def test_what_a_dry_run_prints_is_what_is_written(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(model), "--tp", "2", "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert main(["convert", str(model), "--tp", "2", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    sizes = {file["path"]: file["size"] for file in done["files"] if file["path"] != "config.json"}
    assert said["file_sizes"] == sizes
    assert (said["out"], said["dtype"], said["mapping"]) == (done["path"], done["dtype"], done["mapping"])


def test_steps_of_a_kv_cache_change_the_values_of_a_plan_and_nothing_else(model: Path) -> None:
    with open_model(str(model)) as source:
        mapping = Mapping(tp_size=2)
        first = plan_conversion(source, mapping=mapping, quantization=Quantization(kv_cache="int8"))
        steps = tuple(0.5 + layer for layer in range(source.spec.num_layers))
        second = with_kv_scales(first, source, scales=steps)
    assert [file.header for file in second.rank_files] == [file.header for file in first.rank_files]
    assert (second.config, second.dropped, second.notes) == (first.config, first.dropped, first.notes)
    values = [tensor.value for tensor in second.rank_files[0].tensors if tensor.value is not None]
    assert sorted(set(values)) == sorted(steps)


def test_a_model_that_is_refused_is_refused_by_the_plan(model: Path) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 9}))
    with open_model(str(model)) as source, pytest.raises(InputRefused, match="layers"):
        plan_conversion(source, mapping=Mapping())
