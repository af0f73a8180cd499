"""The files of every target: held by golden files, valid by the tools of their field."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.dev.run_dockerfile import instructions
from scripts.main import main
from tests.support.deployments import CASES, GOLDEN, MANIFESTS, URL, deployment_of, documents, golden_files
from tests.support.stores import write_engine
from tpforge.errors import UsageError
from tpforge.shards.mapping import Mapping
from triton_repo.deploy.deployment import engine_key, label_of
from triton_repo.deploy.kubernetes.helm_values import values
from triton_repo.deploy.kubernetes.objects import objects
from triton_repo.deploy.targets import apply_words, target_files
from triton_repo.monitoring.rules import ALERTS

ids = [f"{case}-{target}" for case, target in CASES]


CORE_KINDS = {
    "ConfigMap",
    "Deployment",
    "HorizontalPodAutoscaler",
    "NetworkPolicy",
    "PersistentVolumeClaim",
    "PodDisruptionBudget",
    "Role",
    "RoleBinding",
    "Service",
    "ServiceAccount",
}


CUSTOM_KINDS = {
    *("HTTPRoute", "InferencePool"),
    *("InferenceService", "LeaderWorkerSet", "PrometheusRule", "ServiceMonitor", "ServingRuntime"),
}
"""Their schemas are in no package: see tests/support/upstream/custom_kinds.py, and test_gateway.py."""


@pytest.mark.parametrize(("case", "target"), CASES, ids=ids)
def test_the_files_are_those_of_the_golden_folder(case: str, target: str) -> None:
    folder = GOLDEN / case / target
    found = {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert golden_files(case, target) == found, "if this is wanted, run: python -m tests.support.deployments"


@pytest.mark.manifests
@pytest.mark.parametrize("release", ["1.35", "1.37"])
@pytest.mark.parametrize(
    ("case", "target"), [pair for pair in CASES if pair[1] in ("kubernetes", "multi-node", "kserve")]
)
def test_objects_are_valid_in_two_releases_of_kubernetes(case: str, target: str, release: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for document in documents(target_files(target, deployment_of(case, target))):
        if document["kind"] in CORE_KINDS:
            validator.validate(document, release, strict=True)
        else:
            assert document["kind"] in CUSTOM_KINDS


@pytest.mark.manifests
@pytest.mark.parametrize(("case", "target"), [pair for pair in CASES if "compose" in pair[1]])
def test_compose_files_hold_the_specification(case: str, target: str) -> None:
    compose_spec = pytest.importorskip("compose_spec", reason="pip install compose-spec")
    parsed = compose_spec.PyCompose.from_yaml(
        target_files(target, deployment_of(case, target))["compose.yaml"]
    )
    parsed.validate()
    names = set(parsed.service_names())
    if target == "compose":
        server = deployment_of(case, target).server
        assert names == {"alertmanager", "grafana", "prepare", "prometheus", server}
    else:
        assert {"prepare", "frontend"} < names


def write(files: dict[str, str], folder: Path) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


@pytest.mark.manifests
@pytest.mark.parametrize(
    ("case", "target", "where"),
    [
        (case, "kubernetes", f"overlays/{overlay}")
        for case in ("smollm2-reference", "llama70b-tensorrt", "llama70b-trtllm-serve")
        for overlay in ("trial", "production")
    ]
    + [("llama70b-trtllm-serve", "kubernetes", "overlays/gateway")]
    + [("llama405b-tensorrt", "multi-node", "."), ("llama70b-tensorrt", "kserve", ".")],
)
def test_kustomize_builds_every_overlay_in_its_namespace(
    case: str, target: str, where: str, tmp_path: Path
) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on PATH")
    folder = write(target_files(target, deployment_of(case, target)), tmp_path)
    built = subprocess.run(
        ["kubectl", "kustomize", str(folder / where)], capture_output=True, text=True, check=True
    )
    found = list(yaml.safe_load_all(built.stdout))
    assert {document["metadata"]["namespace"] for document in found} == {"llm"}
    config = next(
        document["metadata"]["name"]
        for document in found
        if document["kind"] == "ConfigMap" and "launch.py" in document["data"]
    )
    assert f"name: {config}\n" in built.stdout.split("kind: ConfigMap")[-1], "no pod mounts the config map"


@pytest.mark.manifests
@pytest.mark.parametrize(
    "case", ["smollm2-reference", "llama70b-tensorrt", "llama70b-pytorch", "llama70b-trtllm-serve"]
)
def test_the_chart_gives_the_objects_of_target_kubernetes(case: str, tmp_path: Path) -> None:
    helm = pytest.importorskip("helm_python", reason="pip install helm-python-sdk")
    deployment = deployment_of(case, "helm")
    folder = write(target_files("helm", deployment), tmp_path / deployment.name)
    given = {"monitoring": {"enabled": True}, "autoscaling": {"enabled": True}}
    with helm.Chart.load(str(folder)) as chart:
        chart.validate_schema(values(deployment).model_dump(mode="json"))
        rendered = chart.render(given, name=deployment.name, namespace="llm")
        with pytest.raises(Exception, match="replicas"):
            chart.validate_schema({**values(deployment).model_dump(mode="json"), "replicas": 0})
        with pytest.raises(Exception, match="loadTimeout"):
            chart.validate_schema({**values(deployment).model_dump(mode="json"), "loadTimeout": 0})
        open_to = {"allowFrom": ["10.0.0.0/8", "192.168.0.0/16"]}
        opened = chart.render(open_to, name=deployment.name, namespace="llm")
        slower = chart.render({"loadTimeout": 1995}, name=deployment.name, namespace="llm")
    (other,) = (yaml.safe_load(text) for path, text in slower.items() if path.endswith("/deployment.yaml"))
    (policy,) = (yaml.safe_load(text) for path, text in opened.items() if path.endswith("/network.yaml"))
    with_options = deployment_of(case, "helm", allow_from=tuple(open_to["allowFrom"]))
    assert [policy] == objects(with_options)["network"]
    server = other["spec"]["template"]["spec"]["containers"][0]
    assert server["startupProbe"]["failureThreshold"] == 200
    assert other["spec"]["progressDeadlineSeconds"] == 1995 + 3600
    assert other["spec"]["replicas"] == 1, "nothing else says how many, without an autoscaler"
    assert ("1995" in server.get("command", server.get("args"))) == (case == "smollm2-reference")
    found = {
        (document["kind"], document["metadata"]["name"]): document
        for text in rendered.values()
        for document in yaml.safe_load_all(text)
        if document
    }
    for expected in [one for kind in objects(deployment).values() for one in kind]:
        pod = expected.get("spec", {}).get("template", {}).get("spec")
        if expected["kind"] == "Deployment":  # The autoscaler says how many.
            del expected["spec"]["replicas"]
        if pod is not None:  # The chart selects nodes by labels, which values.yaml may change.
            pod.pop("affinity", None)
            if deployment.gpu_labels:
                pod["nodeSelector"] = deployment.gpu_labels
        assert found[expected["kind"], expected["metadata"]["name"]] == expected
    rule = found["PrometheusRule", deployment.name]
    summaries = [one["annotations"]["summary"] for one in rule["spec"]["groups"][1]["rules"]]
    assert any("{{ $value | humanizePercentage }}" in summary for summary in summaries)


@pytest.mark.manifests
@pytest.mark.parametrize(("case", "target"), CASES, ids=ids)
def test_shell_scripts_pass_shellcheck(case: str, target: str, tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed (Debian: shellcheck)")
    write(target_files(target, deployment_of(case, target)), tmp_path)
    scripts = sorted(str(path) for path in tmp_path.rglob("*.sh"))
    assert scripts
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def pods(case: str, target: str) -> list[Any]:
    found = []
    for document in documents(target_files(target, deployment_of(case, target))):
        if document["kind"] == "Deployment":
            found.append(document["spec"]["template"]["spec"])
        if document["kind"] == "LeaderWorkerSet":
            template = document["spec"]["leaderWorkerTemplate"]
            found += [template["leaderTemplate"]["spec"], template["workerTemplate"]["spec"]]
    return found


@pytest.mark.parametrize(
    ("case", "target", "gpus"),
    [
        ("smollm2-reference", "kubernetes", None),
        ("llama70b-tensorrt", "kubernetes", "4"),
        ("llama70b-pytorch", "kubernetes", "4"),
        ("llama70b-trtllm-serve", "kubernetes", "4"),
        ("llama405b-tensorrt", "multi-node", "8"),
    ],
)
def test_pods_ask_for_a_gpu_a_rank_and_are_locked_down(case: str, target: str, gpus: str | None) -> None:
    found = pods(case, target)
    assert found
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in (*pod["initContainers"], *pod["containers"]):
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
        server = pod["containers"][0]
        assert server["resources"].get("limits", {}).get("nvidia.com/gpu") == gpus
        assert server["securityContext"]["capabilities"]["drop"] == ["ALL"]
        mounts = {mount["mountPath"]: mount for mount in server["volumeMounts"]}
        assert mounts["/srv/engines"]["readOnly"] is True, "Triton could change the engine"
        assert {"/tmp", "/dev/shm", "/srv/tpforge"} <= mounts.keys(), "a read-only root needs these"


def test_probes_generate_and_the_start_may_take_as_long_as_the_engine_loads() -> None:
    (pod,) = pods("llama70b-tensorrt", "kubernetes")
    server = pod["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["exec"]["command"][:2] == ["python3", "/etc/tpforge/canary.py"]
    startup = server["startupProbe"]
    # 141.1 GB at 250 MB/s, two minutes, and five for kernels and CUDA graphs.
    assert startup["periodSeconds"] * startup["failureThreshold"] == 990
    (other,) = pods("llama70b-pytorch", "kubernetes")
    command = other["containers"][0]["readinessProbe"]["exec"]["command"]
    assert command[command.index("--model") + 1] == "tensorrt_llm"


def test_a_cluster_starts_no_other_engine_than_the_one_of_the_digest() -> None:
    script = target_files("kubernetes", deployment_of("llama70b-tensorrt", "kubernetes"))[
        "base/config/prepare.sh"
    ]
    assert f'{URL} --out "$engine" --force --digest=' + "ab" * 32 + "\n" in script
    assert "engine=/srv/engines/Llama-3.3-70B-Instruct-tp4-abababababab\n" in script


@pytest.mark.parametrize("target", ["kubernetes", "helm", "multi-node"])
@pytest.mark.parametrize(
    ("url", "driver"),
    [("s3://a/b", "s3fs"), ("gs://a/b", "gcsfs"), ("az://a/b", "adlfs"), ("https://a/b", None)],
)
def test_the_image_of_a_cluster_can_pull_from_the_engines_url(
    target: str, url: str, driver: str | None
) -> None:
    case = "llama405b-tensorrt" if target == "multi-node" else "llama70b-tensorrt"
    text = target_files(target, deployment_of(case, target, engine_url=url))["Dockerfile"]
    installed = [line for _, line in instructions(text) if "pip install" in line]
    assert [line.split()[4] for line in installed] == ([driver] if driver else [])


def test_helm_waits_as_long_as_the_deployment_may_take() -> None:
    deployment = deployment_of("llama70b-tensorrt", "helm")
    (found,) = objects(deployment)["deployment"]
    words = apply_words("helm", deployment)
    assert words[-2:] == ["--timeout", f"{found['spec']['progressDeadlineSeconds']}s"]
    assert found["spec"]["progressDeadlineSeconds"] > deployment.start_s


def test_compose_binds_to_this_machine_only_and_reserves_a_gpu_a_rank() -> None:
    value = yaml.safe_load(
        target_files("compose", deployment_of("llama70b-tensorrt", "compose"))["compose.yaml"]
    )
    for service in value["services"].values():
        assert {port["host_ip"] for port in service.get("ports", [])} <= {"127.0.0.1"}
    device = value["services"]["triton"]["deploy"]["resources"]["reservations"]["devices"][0]
    assert device == {"driver": "nvidia", "count": 4, "capabilities": ["gpu"]}


def test_what_watches_in_compose_is_pinned_and_alerts_reach_alertmanager() -> None:
    files = target_files("compose", deployment_of("llama70b-tensorrt", "compose"))
    services = yaml.safe_load(files["compose.yaml"])["services"]
    for name in ("prometheus", "alertmanager", "grafana"):
        assert re.search(r"@sha256:[0-9a-f]{64}$", services[name]["image"])
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", services[name]["labels"]["tpforge.release"])
    (target,) = yaml.safe_load(files["prometheus/prometheus.yml"])["alerting"]["alertmanagers"]
    host, port = target["static_configs"][0]["targets"][0].split(":")
    assert services[host]["ports"][0]["target"] == int(port)
    told = yaml.safe_load(files["alertmanager/alertmanager.yml"])
    routes = [told["route"], *told["route"]["routes"]]
    assert {one["receiver"] for one in routes} == {one["name"] for one in told["receivers"]}
    known = {alert.name for alert in ALERTS}
    silenced = re.findall(r'alertname="(\w+)"', files["alertmanager/alertmanager.yml"])
    assert silenced and set(silenced) <= known


def test_tp_across_nodes_is_warned_about_with_the_figures_of_the_planner() -> None:
    assert deployment_of("llama405b-tensorrt", "multi-node").warnings == ()
    crossing = MANIFESTS["llama405b-tensorrt"].model_copy(update={"mapping": Mapping(tp_size=16)})
    MANIFESTS["crossing"] = crossing
    try:
        (warning,) = deployment_of("crossing", "multi-node").warnings
    finally:
        del MANIFESTS["crossing"]
    # 252 all-reduces of 2 MiB. Within: the table's 2 MiB row of H100 TP8. Across: base + 30 steps of 14 us
    # + bytes x 30/16 / (50 GB/s x the fitted share).
    assert "tp=16 crosses nodes of 8 GPUs" in warning and "252 all-reduces" in warning
    assert "tpforge build --tp 8 --pp 2" in warning


@pytest.mark.parametrize(
    ("case", "target", "changes", "words"),
    [
        ("llama405b-tensorrt", "compose", {}, "16 ranks need 2 nodes of 8 GPUs; use --target multi-node"),
        ("llama405b-tensorrt", "kubernetes", {}, "use --target multi-node"),
        ("llama70b-tensorrt", "multi-node", {}, "4 ranks fit one node of 8 GPUs; use --target kubernetes"),
        ("llama70b-tensorrt", "kubernetes", {"engine_url": None}, "tpforge engines push"),
        ("llama405b-tensorrt", "slurm", {"gpus_per_node": 6}, "16 ranks do not fill nodes of 6 GPUs"),
        ("llama70b-tensorrt", "kubernetes", {"digest": "abc"}, "expected the 64 digits"),
    ],
)
def test_a_target_that_does_not_fit_says_which_does(
    case: str, target: str, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        target_files(target, deployment_of(case, target, **changes))


def test_names_become_labels_and_engines_of_another_digest_another_folder() -> None:
    assert label_of("SmolLM2-135M_Instruct.Q4") == "smollm2-135m-instruct-q4"
    assert label_of("7B-model") == "engine-7b-model"
    assert label_of("a" * 39 + "-b") == "a" * 39
    assert engine_key("e", None) == "e"
    assert engine_key("e", "sha256:" + "12" * 32) == "e-121212121212"


def test_the_command_writes_the_files_and_says_what_applies_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = write_engine(tmp_path / "tiny" / "engine")
    assert main(["deploy", str(engine), "--target", "compose"]) == 0
    folder = tmp_path / "tiny" / "deploy-compose"
    assert (folder / "compose.yaml").is_file() and (folder / "deployment.json").is_file()
    assert os.access(folder / "config" / "prepare.sh", os.X_OK)
    assert "docker compose up" in capsys.readouterr().err
    assert main(["deploy", str(engine), "--target", "compose"]) == 4, "an existing folder is kept"
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["deploy", str(engine), "--target", "compose", "--force", "--apply"]) == 3
    assert "docker is not on PATH" in capsys.readouterr().err
