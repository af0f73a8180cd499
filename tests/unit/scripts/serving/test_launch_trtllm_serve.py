"""Which server serves an engine of runtime pytorch, and the command of trtllm-serve in a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.flows.serving.launch_trtllm_serve import chosen_server, plan_trtllm_serve
from tests.support.records import manifest_of
from tpforge.errors import UsageError
from tpforge.manifest import LlmApi, Manifest
from tpforge.outputs.places import Places
from tpforge.recipe import ServeRecipe
from tpforge.shards.mapping import Mapping
from tpforge.trtllm.versions import Release, find_release
from triton_repo.serve.security import Security


def engine(version: str, runtime: str = "pytorch") -> Manifest:
    llm_api = LlmApi(trtllm=version, arguments={}, quant_algo=None, sm=90, respelled=())
    return manifest_of(runtime=runtime, llm_api=llm_api, mapping=Mapping(tp_size=2), name="tiny")


def release(version: str, *, triton: tuple[str, ...]) -> Release:
    return find_release("1.2.1").model_copy(update={"trtllm": version, "triton": triton})


@pytest.mark.parametrize(
    ("triton", "asked", "runtime", "server"),
    [
        (("26.04",), "auto", "pytorch", "triton"),
        (("26.04",), "trtllm-serve", "pytorch", "trtllm-serve"),
        ((), "auto", "pytorch", "trtllm-serve"),
        (("26.04",), "auto", "tensorrt", "triton"),
    ],
)
def test_trtllm_serve_serves_where_no_container_of_triton_holds_the_release(
    triton: tuple[str, ...], asked: str, runtime: str, server: str
) -> None:
    recipe = ServeRecipe.model_validate({"server": asked})
    assert chosen_server(recipe, engine("1.3.0", runtime), release("1.3.0", triton=triton)) == server


def test_triton_is_refused_for_a_release_that_none_of_its_containers_holds() -> None:
    recipe = ServeRecipe(server="triton")
    with pytest.raises(UsageError, match=r"no container of Triton holds TensorRT-LLM 1\.3\.0; leave it out"):
        chosen_server(recipe, engine("1.3.0"), release("1.3.0", triton=()))
    named = recipe.model_copy(update={"image": "own/triton:1.3"})
    assert chosen_server(named, engine("1.3.0"), release("1.3.0", triton=())) == "triton"


def test_trtllm_serve_is_refused_for_compiled_engines() -> None:
    with pytest.raises(UsageError, match="this one is of tensorrt"):
        chosen_server(ServeRecipe(server="trtllm-serve"), engine("1.2.1", "tensorrt"), find_release("1.2.1"))


def test_the_command_runs_in_the_release_s_own_container(tmp_path: Path) -> None:
    places = Places(tmp_path / "tiny" / "engine")
    recipe = ServeRecipe(container="docker", port_base=9000, devices="2,3")
    launch = plan_trtllm_serve(
        places, recipe, engine("1.3.0"), release("1.3.0", triton=()), security=Security()
    )
    words, folder = launch.command.words, str(places.engine.resolve())
    assert launch.image == "nvcr.io/nvidia/tensorrt-llm/release:1.3.0"
    assert words[words.index(launch.image) + 1 :] == (
        *("trtllm-serve", "serve", f"{folder}/model", "--host", "0.0.0.0", "--port", "9000"),
        *("--extra_llm_api_options", f"{folder}/llm.yaml", "--served_model_name", "tiny"),
    )
    assert [words[place + 1] for place, word in enumerate(words) if word == "--publish"] == [
        "127.0.0.1:9000:9000"
    ]
    assert '"device=2,3"' in words
    assert "TRTLLM_NO_USAGE_STATS=1" in words
    assert (launch.server, launch.model) == ("trtllm-serve", "tiny")


@pytest.mark.parametrize(
    "given", [{"mode": "orchestrator"}, {"tritonserver": "/opt/tritonserver"}, {"openai": True}]
)
def test_options_of_triton_are_refused(given: dict[str, str], tmp_path: Path) -> None:
    places = Places(tmp_path / "tiny" / "engine")
    recipe = ServeRecipe.model_validate({"container": "docker", **given})
    with pytest.raises(UsageError, match="for Triton, and this engine is served by trtllm-serve"):
        plan_trtllm_serve(places, recipe, engine("1.2.1"), find_release("1.2.1"), security=Security())


def test_its_grpc_listens_one_port_above_and_is_refused_where_the_release_has_none(tmp_path: Path) -> None:
    places = Places(tmp_path / "tiny" / "engine")
    recipe = ServeRecipe(container="docker", port_base=9000, server="trtllm-grpc")
    launch = plan_trtllm_serve(
        places, recipe, engine("1.3.0"), release("1.3.0", triton=()), security=Security()
    )
    words = launch.command.words
    assert words[-1] == "--grpc"
    assert words[words.index("--port") + 1] == "9001"
    published = [words[place + 1] for place, word in enumerate(words) if word == "--publish"]
    assert published == ["127.0.0.1:9001:9001"]
    assert (launch.server, launch.api) == ("trtllm-grpc", "trtllm-grpc")
    with pytest.raises(UsageError, match=r"TensorRT-LLM 1\.2\.1 has no --grpc"):
        chosen_server(recipe, engine("1.2.1"), find_release("1.2.1"))
    with pytest.raises(UsageError, match="this one is of tensorrt"):
        chosen_server(recipe, engine("1.2.1", "tensorrt"), find_release("1.2.1"))
