"""Engines of releases that no container of Triton holds: what each target starts, asks, tells and reads.

Nothing of TensorRT-LLM runs here; its stand-in's draining is test_launch.py's, its canary's is
tests/unit/triton_repo/serve/test_canary_openai.py.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.llm_api.given import flatten
from tests.support.deployments import MANIFESTS, deployment_of, documents
from tpforge.errors import UsageError
from tpforge.manifest import LlmApi
from tpforge.shards.mapping import Mapping
from tpforge.trtllm.argument_tables import llm_arguments
from tpforge.trtllm.versions import find_release
from triton_repo.deploy.deployment import Deployment, plan_deployment
from triton_repo.deploy.options import DeployOptions
from triton_repo.deploy.targets import target_files

CASE = "llama70b-trtllm-serve"
NAME = "Llama-3.3-70B-Instruct-tp4-pytorch"
IMAGE = "nvcr.io/nvidia/tensorrt-llm/release:1.4.0rc4"
TARGETS = ("compose", "kubernetes", "helm", "kserve")
SETTINGS = {
    "compose": "config/llm.yaml",
    "kubernetes": "base/config/llm.yaml",
    "helm": "files/llm.yaml",
    "kserve": "config/llm.yaml",
    "slurm": "llm.yaml",
}


def server(target: str, **changes: Any) -> Any:
    """The container that serves, as the target writes it; test_targets.py compares Helm's."""
    files = target_files(target, deployment_of(CASE, target, **changes))
    if target == "compose":
        return yaml.safe_load(files["compose.yaml"])["services"]["trtllm-serve"]
    by_kind = {one["kind"]: one for one in documents(files)}
    if target == "kserve":
        return by_kind["ServingRuntime"]["spec"]["containers"][0]
    return by_kind["Deployment"]["spec"]["template"]["spec"]["containers"][0]


def built(mapping: Mapping | None = None, **fields: Any) -> Deployment:
    """A deployment of an engine with another llm.yaml, release or division."""
    manifest = MANIFESTS[CASE]
    assert manifest.llm_api is not None
    api = LlmApi.model_validate({**manifest.llm_api.model_dump(), **fields})
    changed = manifest.model_copy(update={"llm_api": api, "mapping": mapping or manifest.mapping})
    options = DeployOptions(engine_url="s3://models/it", digest="ab" * 32)
    return plan_deployment(Path("/e"), changed, options)


@pytest.mark.parametrize(
    ("target", "starts", "engine"),
    [
        ("compose", "command", f"/srv/engines/{NAME}"),
        ("kubernetes", "args", f"/srv/engines/{NAME}-abababababab"),
    ],
)
def test_the_releases_own_container_runs_trtllm_serve_as_what_launch_drains(
    target: str, starts: str, engine: str
) -> None:
    found = server(target)
    assert found["image"] == IMAGE
    # The entrypoint of the image sets the paths of its libraries: nothing stands in its place.
    assert starts == "command" or "command" not in found
    assert found[starts] == [
        *("python3", "/etc/tpforge/launch.py", "--grace", "328"),
        *("trtllm-serve", "serve", f"{engine}/model", "--host", "0.0.0.0", "--port", "8000"),
        *("--extra_llm_api_options", "/etc/tpforge/llm.yaml", "--served_model_name", NAME),
    ]


def test_kserve_proves_the_mounted_engine_before_trtllm_serve_takes_it() -> None:
    files = target_files("kserve", deployment_of(CASE, "kserve"))
    lines = [shlex.split(line) for line in files["config/start.sh"].splitlines()[3:]]
    assert [line[:2] for line in lines] == [
        ["python3", "/etc/tpforge/prove.py"],
        ["exec", "python3"],
    ]
    assert "/mnt/models/engine/model" in lines[1] and "/etc/tpforge/llm.yaml" in lines[1]
    assert server("kserve")["args"] == ["sh", "/etc/tpforge/start.sh"] and "command" not in server("kserve")
    assert "tpforge render" not in files["storage.sh"], "trtllm-serve takes the engine itself"


@pytest.mark.parametrize("target", SETTINGS)
def test_it_is_told_the_engines_settings_and_to_tell_of_itself(target: str) -> None:
    text = target_files(target, deployment_of(CASE, target))[SETTINGS[target]]
    release = find_release("1.4.0rc4")
    known = {one.name for one in llm_arguments(release)}
    told = flatten(yaml.safe_load(text), known=known)
    assert told == {
        "return_perf_metrics": True,
        "enable_iter_perf_stats": True,
        "tensor_parallel_size": 4,
        "max_batch_size": 64,
        "kv_cache_config.dtype": "fp8",
    }
    assert told.keys() <= known, "an unknown key ends the start"


def test_no_repository_is_rendered_and_every_byte_is_proven() -> None:
    script = target_files("kubernetes", deployment_of(CASE, "kubernetes"))["base/config/prepare.sh"]
    assert "tpforge engines verify" in script and "tpforge render" not in script


@pytest.mark.parametrize("target", ["kubernetes", "kserve"])
def test_its_probes_ask_for_a_token_and_for_progress_by_openais_api(target: str) -> None:
    found = server(target)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        words = found[name]["exec"]["command"]
        assert words[:2] == ["python3", "/etc/tpforge/canary_openai.py"]
        assert words[words.index("--model") + 1] == NAME
        assert ("--alive" in words) == (name == "livenessProbe")
        assert "--metrics" not in words, "that port is Triton's"
    # Its iterations are among its metrics, so that a busy server is told from a stuck one within the look.
    assert found["livenessProbe"]["timeoutSeconds"] == 20
    assert found["ports"] == [{"name": "http", "containerPort": 8000}]


def test_a_pods_long_name_is_not_what_open_mpi_takes_for_the_hosts() -> None:
    settings = {one["name"]: one["value"] for one in server("kubernetes")["env"]}
    assert len(f"singleton.{settings['PMIX_HOSTNAME']}.4194304") < 50, "PMIx's buffer, with the largest pid"
    assert settings["TRTLLM_NO_USAGE_STATS"] == "1"


@pytest.mark.parametrize("target", ["compose", "kubernetes"])
def test_prometheus_reads_it_beside_its_api(target: str) -> None:
    files = target_files(target, deployment_of(CASE, target))
    if target == "compose":
        (job,) = yaml.safe_load(files["prometheus/prometheus.yml"])["scrape_configs"]
        assert job["static_configs"][0]["targets"] == ["trtllm-serve:8000"]
        assert (job["job_name"], job["metrics_path"]) == ("trtllm-serve", "/prometheus/metrics")
        return
    by_kind = {one["kind"]: one for one in documents(files)}
    (endpoint,) = by_kind["ServiceMonitor"]["spec"]["endpoints"]
    assert (endpoint["port"], endpoint["path"]) == ("http", "/prometheus/metrics")
    assert {"targetLabel": "job", "replacement": "trtllm-serve"} in endpoint["relabelings"]


def test_the_port_of_the_api_is_open_to_the_namespace_of_prometheus_alone() -> None:
    def sources(**changes: Any) -> list[Any]:
        files = target_files("kubernetes", deployment_of(CASE, "kubernetes", gateway=None, **changes))
        (policy,) = [one for one in documents(files) if one["kind"] == "NetworkPolicy"]
        assert {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]} == {8000}
        return [source for rule in policy["spec"]["ingress"] for source in rule["from"]]

    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert sources() == [{"podSelector": {}}, prometheus]
    prometheus["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] = "observed"
    assert sources(monitor_namespace="observed") == [{"podSelector": {}}, prometheus]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"trtllm": "1.3.0rc9"}, "1.3.0rc12 and later do"),
        ({"arguments": {"enable_iter_perf_stats": False}}, "enable_iter_perf_stats: false"),
    ],
)
def test_nothing_scales_by_what_the_server_does_not_tell(fields: dict[str, Any], words: str) -> None:
    deployment = built(**fields)
    (warning,) = deployment.warnings
    assert words in warning
    files = target_files("kubernetes", deployment)
    assert "overlays/production/autoscaling.yaml" not in files
    overlay = yaml.safe_load(files["overlays/production/kustomization.yaml"])
    assert overlay["resources"] == ["../../base", "monitoring.yaml"] and "patches" not in overlay
    alive = next(one for one in documents(files) if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    # Nothing tells of its iterations: a token has to come.
    assert alive["containers"][0]["livenessProbe"]["timeoutSeconds"] == 65


def test_what_the_server_tells_is_what_the_autoscaler_asks_for() -> None:
    files = target_files("kubernetes", deployment_of(CASE, "kubernetes"))
    scaler = yaml.safe_load(files["overlays/production/autoscaling.yaml"])["spec"]
    asked = [one["pods"]["metric"]["name"] for one in scaler["metrics"]]
    rules = yaml.safe_load(files["prometheus-adapter.yaml"])["rules"]["custom"]
    made = {rule["name"]["as"]: rule for rule in rules}
    for name, series in zip(
        asked, ("trtllm_num_requests_waiting", "trtllm_kv_cache_utilization"), strict=True
    ):
        assert series in made[name]["seriesQuery"] and series in made[name]["metricsQuery"]


def test_ranks_of_several_nodes_are_sent_to_what_starts_them() -> None:
    deployment = built(Mapping(tp_size=16))
    for target in ("compose", "kubernetes", "helm"):
        with pytest.raises(UsageError, match="use --target multi-node or slurm"):
            target_files(target, deployment)
    with pytest.raises(UsageError, match="use --target kubernetes"):
        target_files("multi-node", built())


def test_over_several_nodes_the_leader_starts_a_rank_a_gpu_under_the_launcher() -> None:
    deployment = built(Mapping(tp_size=16))
    files = target_files("multi-node", deployment)
    words = shlex.split(files["config/leader.sh"].partition("exec python3")[2].replace("\\\n", " "))
    assert words[words.index("mpirun") :] == [
        *("mpirun", "--host", "$hosts", "--mca", "plm_rsh_agent", "/tmp/remote"),
        *("--mca", "plm_rsh_no_tree_spawn", "1"),
        *("--allow-run-as-root", "-n", "16", "-x", "LD_LIBRARY_PATH", "trtllm-llmapi-launch"),
        *("trtllm-serve", "serve", f"/srv/engines/{NAME}-abababababab/model", "--host", "0.0.0.0"),
        *("--port", "8000", "--extra_llm_api_options", "/etc/tpforge/llm.yaml"),
        *("--served_model_name", NAME),
    ]
    (found,) = [one for one in documents(files) if one["kind"] == "LeaderWorkerSet"]
    group = found["spec"]["leaderWorkerTemplate"]
    for template in ("leaderTemplate", "workerTemplate"):
        (container,) = group[template]["spec"]["containers"]
        assert container["name"] == "trtllm-serve" and "command" not in container
        assert container["image"] == IMAGE
        # mpirun names its hosts; one name for all would make of them one node.
        assert "PMIX_HOSTNAME" not in {one["name"] for one in container["env"]}
    for script in ("remote.sh", "workers.sh"):
        assert "--container trtllm-serve --" in files[f"config/{script}"]
    leader = group["leaderTemplate"]["spec"]["containers"][0]
    assert leader["livenessProbe"]["exec"]["command"][1] == "/etc/tpforge/canary_openai.py"
