"""How a mistake is made: a build, a launch or a repository in which one thing is wrong.

Which mistakes there are is in the tables beside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import engines.reference
from builders.llm_api.arguments import LlmTarget, plan_llm
from builders.llm_api.formats import require_loadable
from builders.sources import open_source
from builders.sources.quantization import find_quantization
from builders.tensorrt.plan import plan_build
from builders.tensorrt.target import read_facts
from engines.runtime import find_misfits
from engines.store import write_manifest
from scripts.flows.serving.launch import plan_launch
from tests.support.build_targets import target_of
from tests.support.hosts import gpu, host_of
from tests.support.tiny import write_tiny_llama
from tpforge.manifest import EngineBuild, Limits, Manifest
from tpforge.outputs.places import Places
from tpforge.recipe import ServeRecipe
from tpforge.repository_options import TensorrtOptions
from tpforge.shards.mapping import Mapping
from tpforge.trtllm.versions import find_release
from triton_repo.render.check import check_repository
from triton_repo.render.parameters import check_parameters
from triton_repo.render.tensorrt import render_tensorrt

RUNTIME = Path(engines.reference.__file__).parent


RELEASE = find_release("1.2.1")


LIMITS = Limits(max_batch_size=64, max_input_len=2048, max_seq_len=4096)


@dataclass(frozen=True)
class Mistake:
    """What was done wrong, where it is known from, and the words that say what is wrong."""

    name: str
    issue: str | None
    attempt: Callable[[Path], Any]
    said: str


def build(name: str, issue: str | None, said: str, given: dict[str, Any], **target: Any) -> Mistake:
    def attempt(_folder: Path) -> None:
        plan_build(target_of(**target), limits=LIMITS, given=given)

    return Mistake(name, issue, attempt, said)


def llm(
    name: str, issue: str | None, said: str, given: dict[str, Any], *, tp: int = 4, sm: int = 90
) -> Mistake:
    def attempt(_folder: Path) -> None:
        plan_llm(LlmTarget(RELEASE, Mapping(tp_size=tp), LIMITS, sm=sm), given=given)

    return Mistake(name, issue, attempt, said)


def loading(
    name: str, issue: str | None, said: str, quantization: dict[str, Any], *, sm: int = 90
) -> Mistake:
    def attempt(folder: Path) -> None:
        found, _ = find_quantization(folder, {"quantization_config": quantization})
        require_loadable(found, where="model", trtllm="1.2.1", sm=sm, architecture="LlamaForCausalLM")

    return Mistake(name, issue, attempt, said)


def compiled(folder: Path, **build_arguments: Any) -> tuple[Path, Manifest]:
    """A tiny engine of runtime tensorrt whose files hold nothing."""
    from tests.support.tiny_engine import write_tiny_engine

    engine, manifest, _ = write_tiny_engine(folder, tp_size=2)
    (engine / "engine").mkdir()
    for name in ("rank0.engine", "rank1.engine"):
        (engine / "engine" / name).write_bytes(b"x")
    (engine / "engine" / "config.json").write_text('{"version": "1.2.1"}')
    record = EngineBuild(
        trtllm="1.2.1",
        tensorrt="10.14.1.48",
        cuda="13.1.0",
        arguments=build_arguments,
        command=("x",),
        sm=90,
    )
    return engine, manifest.model_copy(update={"runtime": "tensorrt", "engine_build": record})


def serving(
    name: str, issue: str | None, said: str, parameters: dict[str, Any], **build_arguments: Any
) -> Mistake:
    def attempt(folder: Path) -> None:
        _, manifest = compiled(folder, **build_arguments)
        check_parameters(parameters, manifest)

    return Mistake(name, issue, attempt, said)


def host(name: str, issue: str | None, said: str, *, container: bool = True, **changes: Any) -> Mistake:
    def attempt(folder: Path) -> list[str]:
        engine, manifest = compiled(folder)
        found = host_of(**changes)
        return find_misfits(engine, manifest, found, release=RELEASE, devices=(0, 1), container=container)

    return Mistake(name, issue, attempt, said)


def launching(
    name: str, issue: str | None, said: str, *, parameters: dict[str, Any] | None = None, **recipe: Any
) -> Mistake:
    """What a launch of a tiny engine of two ranks says, or what would keep it from being run."""

    def attempt(folder: Path) -> list[str]:
        engine, manifest = compiled(folder)
        write_manifest(engine, manifest)
        options = TensorrtOptions(parameters=parameters or {})
        with mock.patch("engines.host.find_host", return_value=host_of(gpus=tuple(map(gpu, range(8))))):
            launch = plan_launch(Places(engine), ServeRecipe(**recipe), options=options, render=False)
        return list(launch.misfits)

    return Mistake(name, issue, attempt, said)


def edited(folder: Path) -> list[str]:
    """What a launch says of a repository that was edited after it was rendered."""
    engine, manifest = compiled(folder)
    write_manifest(engine, manifest)
    options = TensorrtOptions()
    rendered = render_tensorrt(
        engine, manifest, out=Places(engine).repository, runtime_source=RUNTIME, options=options
    )
    file = rendered.path / "tensorrt_llm_bls" / "config.pbtxt"
    file.write_text(file.read_text().replace("decoupled: true", "decoupled: false"))
    with mock.patch("engines.host.find_host", return_value=host_of()):
        return list(plan_launch(Places(engine), ServeRecipe(), options=options, render=False).misfits)


def without(folder: Path, name: str) -> list[str]:
    """What is said of an engine that has lost a file."""
    engine, manifest = compiled(folder)
    (engine / name).unlink()
    return find_misfits(engine, manifest, host_of(), release=RELEASE, devices=(0, 1), container=True)


def rendered(folder: Path, model: str, old: str, new: str) -> list[str]:
    """What is said of a repository after a change of one config.pbtxt."""
    engine, manifest = compiled(folder)
    repository = render_tensorrt(
        engine, manifest, out=folder / "r", runtime_source=RUNTIME, options=TensorrtOptions()
    ).path
    file = repository / model / "config.pbtxt"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    return check_repository(repository, runtime="tensorrt")


def wrong_world(_folder: Path) -> None:
    mapping = {"world_size": 8, "tp_size": 4, "pp_size": 1}
    read_facts({"architecture": "a", "dtype": "float16", "mapping": mapping}, where="config.json")


def scaled_cache(folder: Path) -> None:
    write_tiny_llama(folder)
    held = {"quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"}
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": held}))
    open_source(str(folder)).close()
