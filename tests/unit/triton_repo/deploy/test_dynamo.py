"""Target dynamo: what the operator is given, and the options of Dynamo's own programs in it."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.main import main
from tests.support.deployments import DYNAMO_IMAGE, DYNAMO_OPTIONS, MANIFESTS, deployment_of
from tests.support.stores import write_engine
from tpforge.errors import UsageError
from triton_repo.deploy.deployment import Deployment
from triton_repo.deploy.dynamo import dynamo_options
from triton_repo.deploy.options import DeployOptions
from triton_repo.deploy.targets import target_files

UPSTREAM = json.loads(
    (Path(__file__).parents[3] / "contract" / "upstream" / "dynamo_options_1.6.1.json").read_text()
)


def components(case: str, **changes: Any) -> dict[str, Any]:
    graph = yaml.safe_load(target_files("dynamo", deployment_of(case, "dynamo", **changes))["graph.yaml"])
    return {component["name"]: component for component in graph["spec"]["components"]}


def container(component: dict[str, Any]) -> dict[str, Any]:
    (found,) = component["podTemplate"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def value(component: dict[str, Any], option: str) -> str:
    arguments: list[str] = container(component)["args"]
    return arguments[arguments.index(option) + 1]


@pytest.mark.parametrize("target", ["dynamo", "dynamo-compose"])
@pytest.mark.parametrize("case", ["llama70b-dynamo", "llama8b-dynamo"])
def test_the_record_says_that_dynamo_answers_clients(case: str, target: str) -> None:
    deployment = deployment_of(case, target)
    record = Deployment.model_validate_json(target_files(target, deployment)["deployment.json"])
    assert record.server == "dynamo"
    # Records of before say what would have served the engine alone, and are read.
    assert Deployment.model_validate_json(deployment.model_dump_json()).server == deployment.server


@pytest.mark.parametrize("case", DYNAMO_OPTIONS)
def test_every_option_is_one_of_the_program_in_dynamos_wheel(case: str) -> None:
    for component in components(case).values():
        assert container(component)["command"] == ["python3"]
        module, *arguments = container(component)["args"][1:]
        options = {word for word in arguments if word.startswith("--")}
        assert options and options <= set(UPSTREAM[module]), (
            f"{module} takes no {options - set(UPSTREAM[module])}"
        )


def test_every_router_mode_is_one_of_dynamos() -> None:
    for mode in ("round-robin", "random", "power-of-two", "least-loaded", "kv"):
        assert mode in UPSTREAM["router_modes"]
        front = components("llama70b-dynamo", router_mode=mode)["Frontend"]
        assert value(front, "--router-mode") == mode


@pytest.mark.manifests
@pytest.mark.parametrize("release", ["1.35", "1.37"])
@pytest.mark.parametrize("case", DYNAMO_OPTIONS)
def test_the_pods_of_a_graph_are_valid_pods(case: str, release: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for component in components(case).values():
        pod = {"apiVersion": "v1", "kind": "Pod", **deepcopy(component["podTemplate"])}
        validator.validate(pod, release, strict=True)
        names = {volume["name"] for volume in pod["spec"]["volumes"]}
        for one in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]):
            assert {mount["name"] for mount in one["volumeMounts"]} <= names


def test_an_aggregated_70b_has_workers_of_four_gpus_that_tell_the_router_of_their_caches() -> None:
    found = components("llama70b-dynamo")
    assert list(found) == ["Frontend", "worker"]
    worker = found["worker"]
    assert worker["replicas"] == 2 and "multinode" not in worker
    assert container(worker)["resources"]["limits"] == {"nvidia.com/gpu": "4"}
    assert "--publish-kv-events" in container(worker)["args"]
    assert "--disaggregation-mode" not in container(worker)["args"]
    # The digest is of the folder in the store, not of the name that clients ask for.
    assert value(worker, "--served-model-name") == "Llama-3.3-70B-Instruct-tp4-pytorch"
    assert value(worker, "--model") == "/srv/engines/Llama-3.3-70B-Instruct-tp4-pytorch-abababababab/model"


def test_disaggregated_deepseek_computes_prompts_on_two_groups_and_answers_on_one() -> None:
    found = components("deepseek-v32-dynamo")
    prefill, decode = found["prefill"], found["decode"]
    assert (prefill["type"], prefill["replicas"]) == ("prefill", 2)
    assert (decode["type"], decode["replicas"]) == ("decode", 1)
    for component in (prefill, decode):
        gpus = int(container(component)["resources"]["limits"]["nvidia.com/gpu"])
        assert component["multinode"]["nodeCount"] * gpus == 16, "a rank of tp=16 has no GPU"
        assert value(component, "--disaggregation-mode") == component["name"]
    moved = {"cache_transceiver_config": {"backend": "DEFAULT"}}
    of_prefill = json.loads(value(prefill, "--override-engine-args"))
    assert of_prefill == {"disable_overlap_scheduler": True, **moved}
    assert json.loads(value(decode, "--override-engine-args")) == moved


def test_a_compiled_engine_is_served_by_kserves_grpc_and_its_front_is_probed_where_it_speaks_http() -> None:
    found = components("llama8b-dynamo")
    assert value(found["worker"], "--model-repository") == "/srv/tpforge/repository"
    assert "--kserve-grpc-server" in container(found["Frontend"])["args"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        port = container(found["Frontend"])[probe]["httpGet"]["port"]
        assert str(port) == value(found["Frontend"], "--grpc-metrics-port")
    # Its tag says nothing of Dynamo's release, so that the operator has to be told.
    assert {component["runtimeVersionOverride"] for component in found.values()} == {"1.6.1"}
    assert "runtimeVersionOverride" not in components("llama70b-dynamo")["worker"]


@pytest.mark.parametrize("case", DYNAMO_OPTIONS)
def test_the_operator_gives_pods_their_account_and_their_shared_memory(case: str) -> None:
    for name, component in components(case).items():
        spec = component["podTemplate"]["spec"]
        assert "serviceAccountName" not in spec, "an account without rights finds no other pod"
        assert "automountServiceAccountToken" not in spec
        assert "/dev/shm" not in {mount["mountPath"] for mount in container(component)["volumeMounts"]}
        if name != "Frontend":
            assert component["sharedMemorySize"] == "16Gi"
            assert [one["name"] for one in spec["initContainers"]] == ["prepare"]


@pytest.mark.parametrize(("surge", "unavailable"), [(1, "0"), (2, "0"), (0, "1")])
def test_the_operator_replaces_workers_by_the_surge_that_is_given(surge: int, unavailable: str) -> None:
    prefix = "nvidia.com/deployment-rolling-update-max-"
    found = components("llama70b-dynamo", surge=surge)
    annotations = found["worker"]["podTemplate"]["metadata"]["annotations"]
    assert annotations[f"{prefix}surge"] == str(surge)
    assert annotations[f"{prefix}unavailable"] == unavailable
    # Over several nodes Grove or LeaderWorkerSet replaces them, and reads no such annotation.
    several = components("deepseek-v32-dynamo", surge=surge)["decode"]["podTemplate"]["metadata"]
    assert not [name for name in several["annotations"] if name.startswith(prefix)]


@pytest.mark.parametrize(
    ("case", "changes", "words"),
    [
        ("smollm2-reference", {}, "runtime reference"),
        ("llama70b-tensorrt", {}, "4 ranks of a compiled engine .* --target kubernetes"),
        ("llama405b-tensorrt", {}, "16 ranks of a compiled engine .* --target multi-node"),
        ("llama8b-dynamo", {"prefill_workers": 1, "decode_workers": 1}, "does both"),
        ("llama8b-dynamo", {"router_mode": "kv"}, "--router-mode kv"),
        ("deepseek-v32-dynamo", {"decode_workers": None}, "give both, or neither"),
        ("deepseek-v32-dynamo", {"replicas": 2}, "--replicas 2"),
        ("llama70b-dynamo", {"engine_url": None}, "tpforge engines push"),
    ],
)
def test_what_dynamo_cannot_run_is_refused(case: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        target_files("dynamo", deployment_of(case, "dynamo", **changes))


def test_dynamos_image_is_taken_only_for_its_own_release_of_tensorrt_llm() -> None:
    assert dynamo_options(DeployOptions(), MANIFESTS["llama70b-dynamo"]).image == DYNAMO_IMAGE
    assert dynamo_options(DeployOptions(image="a:b"), MANIFESTS["llama70b-pytorch"]).image == "a:b"
    with pytest.raises(UsageError, match=r"holds TensorRT-LLM 1\.3\.0rc29, the engine is of 1\.2\.1"):
        dynamo_options(DeployOptions(), MANIFESTS["llama70b-pytorch"])
    with pytest.raises(UsageError, match="publishes no image"):
        dynamo_options(DeployOptions(), MANIFESTS["llama8b-dynamo"])


def test_the_command_says_why_dynamo_cannot_run_an_engine(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = write_engine(tmp_path / "tiny" / "engine")
    asked = ["deploy", str(engine), "--target", "dynamo", "--engine-url", "s3://a/b", "--any-digest"]
    assert main([*asked, "--router-mode", "kv", "--prefill-workers", "1", "--decode-workers", "2"]) == 2
    assert "tpforge serve --openai" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("case", "wanted"),
    [
        ("llama70b-dynamo", {"TRTLLM_NO_USAGE_STATS", "PMIX_HOSTNAME"}),
        ("deepseek-v32-dynamo", {"TRTLLM_NO_USAGE_STATS"}),  # mpirun names the hosts of several nodes.
        ("llama8b-dynamo", set()),
    ],
)
def test_workers_of_the_llm_api_report_nothing_and_start_under_the_long_name_of_a_pod(
    case: str, wanted: set[str]
) -> None:
    for name, component in components(case).items():
        given = {one["name"] for one in container(component)["env"]}
        own = given & {"TRTLLM_NO_USAGE_STATS", "PMIX_HOSTNAME"}
        assert own == (set() if name == "Frontend" else wanted), name
