"""Of every kind of output: a change in code or tables that decide it is noticed, one in others is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders.conversion.convert import conversion_provenance, convert
from builders.conversion.kept_checkpoint import holds, keep_checkpoint
from builders.conversion.planned import plan_conversion
from builders.sources.models import input_files, open_model
from scripts.flows import build, compile, prove, render, up
from scripts.flows.folders import llm_engine
from scripts.flows.folders.compilation import plan_compilation
from scripts.main import main
from tests.support.changed_code import Changed, copied_code
from tests.support.ports import free_ports
from tests.support.tiny import write_tiny_llama
from tests.support.tiny_engine import write_tiny_engine
from tpforge.manifest import Manifest
from tpforge.outputs import deciding_code
from tpforge.outputs.places import Places
from tpforge.outputs.provenance import differences, engine_provenance
from tpforge.recipe import EngineRecipe, Recipe
from tpforge.repository_options import ReferenceOptions
from tpforge.shards.mapping import Mapping

ENGINE = Path("out/tiny-llama-tp2/engine")
OTHER_CODE = ["it was made by other code of this version of tpforge"]
UNRELATED = (
    *("tpforge/plan/speed/throughput.py", "tpforge/plan/hardware/gpus.toml"),
    *("tpforge/measure/comparison/compare.py", "tpforge/measure/failures/diagnosis.toml"),
    *("triton_repo/load/runner.py", "scripts/reports/page.py", "scripts/commands/making/build.py"),
)
CONVERSION = (
    *("builders/conversion/convert.py", "builders/conversion/rank_writing.py"),
    *("builders/conversion/planning.py", "builders/transforms.py"),
    *("builders/families/gemma.py", "builders/sources/safetensors_reader.py", "builders/audit/tensors.py"),
    *("tpforge/shards/sharding.py", "tpforge/shards/padding.py"),
    *("tpforge/quantization.toml", "tpforge/dtypes.py"),
)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny llama, and an empty current directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return write_tiny_llama(tmp_path / "tiny-llama")


@pytest.fixture
def changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Changed:
    return copied_code(tmp_path / "ours", monkeypatch)


def wrong(changed: Changed, is_same: Callable[[], bool], *, deciding: tuple[str, ...]) -> list[str]:
    """Changes that were not noticed as they ought to be; none was made at the beginning and the end."""
    assert is_same()
    found = []
    for name in (*deciding, *UNRELATED):
        with changed(name):
            if is_same() is not (name in UNRELATED):
                found.append(name)
    assert is_same()
    return found


def room(folder: str) -> tuple[str, ...]:
    """The modules of a folder of ours."""
    home = deciding_code.HOME
    return tuple(path.relative_to(home).as_posix() for path in (home / folder).glob("[a-z]*.py"))


def test_a_reference_engine_is_built_again_after_a_change_of_its_code(
    model: Path, changed: Changed, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["build", str(model), "--tp", "2"]
    assert main(command) == 0

    def is_same() -> bool:
        capsys.readouterr()
        status = main(command)
        said = capsys.readouterr().err
        assert (status, "unchanged" in said, OTHER_CODE[0] in said) in ((0, True, False), (4, False, True))
        return status == 0

    assert wrong(changed, is_same, deciding=(*CONVERSION, "scripts/flows/folders/engine_folder.py")) == []


def test_an_engine_that_was_built_before_its_code_was_kept_is_read_and_kept(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["build", str(model), "--tp", "2"]
    assert main(command) == 0
    kept = json.loads((ENGINE / "engine.json").read_text())
    del kept["code"]
    (ENGINE / "engine.json").write_text(json.dumps(kept))
    assert main(command) == 0
    assert "unchanged: the same model and options" in capsys.readouterr().err


def test_an_engine_of_another_runtime_in_its_place_is_another_engine(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = EngineRecipe(model=str(model), tp=2, runtime="pytorch", sm=90, name="same")
    llm_engine.build_llm_engine(recipe, out=None, existing="refuse", progress=print)
    assert main(["build", str(model), "--tp", "2", "--name", "same"]) == 4
    assert "runtime is pytorch, asked for reference" in capsys.readouterr().err


def test_stages_that_an_older_version_kept_are_made_again(tmp_path: Path) -> None:
    engine, _, _ = write_tiny_engine(tmp_path)
    places = Places(engine)
    render.fresh_repository(places, ReferenceOptions())
    options = {"executor": "processes"}
    places.stages.write_text(json.dumps({"render": {"key": "0", "options": options}, "verify": {"key": "0"}}))
    path, rendered = render.fresh_repository(places)
    assert rendered
    assert 'string_value: "processes"' in (path / "tensorrt_llm" / "config.pbtxt").read_text()


def test_neither_a_conversion_nor_its_checkpoint_is_taken_up_after_a_change_of_its_code(
    model: Path, changed: Changed, tmp_path: Path
) -> None:
    out = tmp_path / "checkpoint"
    out.mkdir()
    with open_model(str(model)) as source:
        planned = plan_conversion(source, mapping=Mapping(tp_size=2))
        made = conversion_provenance(source, planned)
        files = convert(source, planned, out=out).files
        keep_checkpoint(out, provenance=made, files=files)

        def is_same() -> bool:
            asked = conversion_provenance(source, planned)
            assert holds(out, asked=asked) is (asked.identity == made.identity)
            return asked.identity == made.identity

        assert wrong(changed, is_same, deciding=CONVERSION) == []


def test_an_engine_of_trtllm_build_is_another_after_a_change_of_its_code(
    model: Path, changed: Changed
) -> None:
    recipe = EngineRecipe(model=str(model), tp=2, runtime="tensorrt", sm=90)
    compilation = plan_compilation(recipe, out=None)

    def manifest() -> Manifest:
        with open_model(str(model)) as source:
            return compile.plan_manifest(recipe, compilation, source, inputs=input_files(source))

    kept = engine_provenance(manifest())
    deciding = (
        *CONVERSION,
        *room("builders/tensorrt"),
        "tpforge/trtllm/build_args.toml",
        "tpforge/trtllm/versions.toml",
    )

    def is_same() -> bool:
        found = differences(kept, engine_provenance(manifest()))
        assert found in ([], OTHER_CODE)
        return found == []

    assert wrong(changed, is_same, deciding=deciding) == []


def test_an_engine_of_the_llm_api_is_built_again_after_a_change_of_its_code(
    model: Path, changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = EngineRecipe(model=str(model), tp=2, runtime="pytorch", sm=90, name="api")
    built = llm_engine.build_llm_engine(recipe, out=None, existing="refuse", progress=print)
    monkeypatch.setattr(llm_engine, "_build", lambda *_, **__: SimpleNamespace(reused=False))
    deciding = (
        "builders/llm_api/arguments.py",
        "builders/llm_api/padded_model.py",
        "builders/llm_api/engine.py",
    )
    deciding += ("tpforge/trtllm/llm_args.toml", "tpforge/shards/padding.py", "tpforge/yaml_text.py")
    assert built.places.engine == Path("out/api/engine")
    assert wrong(changed, lambda: build.fresh_engine(recipe, progress=print).reused, deciding=deciding) == []


def test_a_proof_is_made_again_after_a_change_of_its_code(
    model: Path, changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["build", str(model), "--tp", "2"]) == 0
    assert main(["verify"]) == 0
    monkeypatch.setattr(prove, "verify_engine", lambda *_, **__: SimpleNamespace(parity=None))
    deciding = (
        *("builders/proof/verify.py", "builders/proof/unfuse.py", "builders/proof/targets.py"),
        "builders/families/qwen.py",
        *room("builders/quantize/proof"),
        *room("engines/parity"),
        *("engines/parity/prompts.toml", "engines/reference/layers/norms.py", "engines/quality.py"),
        *("tpforge/shards/sections.py", "tpforge/quantization.toml", "scripts/flows/prove.py"),
    )
    assert (
        wrong(changed, lambda: prove.fresh_proof(Places(ENGINE), progress=print)[1], deciding=deciding) == []
    )


def test_a_repository_is_rendered_again_after_a_change_of_its_code(
    tmp_path: Path, changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _, _ = write_tiny_engine(tmp_path)
    render.fresh_repository(Places(engine), ReferenceOptions())
    monkeypatch.setattr(render, "render_repository", lambda *_, **__: None)
    templates = "triton_repo/templates/reference"
    deciding = (
        *room("triton_repo/render"),
        *(f"triton_repo/render/{name}.toml" for name in ("contract", "llm_contract", "parameters")),
        *(f"{templates}/serving/fields.py", f"{templates}/tensorrt_llm/config.pbtxt.j2"),
        "triton_repo/templates/pytorch/front/1/llm/runtime.py",
        *room("engines/reference"),
        *("tpforge/manifest.py", "tpforge/repository_options.py", "scripts/flows/render.py"),
    )
    assert wrong(changed, lambda: not render.fresh_repository(Places(engine))[1], deciding=deciding) == []


def test_a_running_server_is_started_again_after_a_change_of_its_code(
    tmp_path: Path, changed: Changed, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _, _ = write_tiny_engine(tmp_path)
    places = Places(engine)
    recipe = Recipe.model_validate({"model": "m", "serve": {"port_base": free_ports().http}})
    base = recipe.serve.port_base
    server = SimpleNamespace(url=f"localhost:{base + 1}", ports=SimpleNamespace(http=base))
    ready = SimpleNamespace(phase="ready", server=server)
    monkeypatch.setattr(up, "servers", lambda _engine: (ready,))
    monkeypatch.setattr(up, "stop_servers", lambda *_, **__: ())
    monkeypatch.setattr(up, "serve_replicas", _starts(server))
    render.fresh_repository(places, ReferenceOptions())
    kept: Any = None

    def is_same() -> bool:
        nonlocal kept
        run = up.Run(recipe, progress=print, on_stage=lambda _stage: None)
        assert run.serve(places) == server.url
        if run.stages[-1].outcome == "done" and kept is not None:
            places.stages.write_bytes(kept)
        return run.stages[-1].outcome == "unchanged"

    assert not is_same()
    kept = places.stages.read_bytes()
    deciding = ("triton_repo/serve/supervisor.py", "triton_repo/serve/guard.py", "triton_repo/serve/ports.py")
    deciding += ("triton_repo/serve/readiness.py", "scripts/flows/serve.py", "tpforge/recipe.py")
    assert wrong(changed, is_same, deciding=deciding) == []


def _starts(server: Any) -> Callable[..., Any]:
    """Stands for the function of the flow that starts a server, and says the module of it."""

    def serve_replicas(*_: Any, **__: Any) -> Any:
        return server

    serve_replicas.__module__ = "scripts.flows.serving.replicas"
    return serve_replicas
