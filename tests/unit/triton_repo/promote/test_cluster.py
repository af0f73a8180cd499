"""What a promotion on a cluster refuses before it touches anything; kubectl is a stand-in, nothing serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.main import main
from tests.support.deployments import deployment_of
from tests.support.servers.standin_kubectl import Cluster, write_kubectl
from tpforge.errors import EnvironmentUnusable, InputRefused
from triton_repo.deploy.kubernetes import helm
from triton_repo.deploy.targets import target_files
from triton_repo.promote.kubectl import INSTANCE, Kubectl

BLUE, GREEN = ({"app.kubernetes.io/name": "tpforge", INSTANCE: name} for name in ("blue", "green"))
PORTS = [{"name": "http", "port": 8000}, {"name": "grpc", "port": 8001}]


def promote(*more: str) -> int:
    return main(["promote", "--target", "kubernetes", "--namespace", "models", "--dry-run", *more])


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The Service `llm` at blue; a pod of blue and one of red, none of green."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    service = {"metadata": {"name": "llm"}, "spec": {"selector": BLUE, "ports": PORTS}}
    red = {**BLUE, INSTANCE: "red"}
    pods = {"blue-0": (BLUE, "127.0.0.1:1"), "red-0": (red, "127.0.0.1:2")}
    return write_kubectl(tmp_path, namespace="models", service=service, pods=pods)


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--service", "llm"), 2, "--target kubernetes needs --active, --candidate"),
        (("--service", "llm", "--active", "blue", "--candidate", "blue"), 2, "is the active release"),
        (
            ("--service", "llm", "--active", "blue", "--candidate", "green"),
            4,
            "release green has no ready pod",
        ),
        (
            ("--service", "llm", "--active", "red", "--candidate", "blue"),
            4,
            "instance=blue, --active says red",
        ),
        (("--service", "other", "--active", "blue", "--candidate", "red"), 3, "unknown words"),
        (
            ("--decision", "x", "--service", "llm", "--active", "a", "--candidate", "b"),
            2,
            "hashes of a release",
        ),
    ],
)
def test_what_cannot_be_promoted_is_refused(
    cluster: Cluster, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], status: int, said: str
) -> None:
    assert promote(*words) == status
    assert said in capsys.readouterr().err
    assert cluster.selector == BLUE and cluster.calls("patch") == []


def test_a_service_of_trtllm_serve_is_told_from_one_of_triton(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    files = target_files("kubernetes", deployment_of("llama70b-trtllm-serve", "kubernetes"))
    service = next(yaml.safe_load_all(files["base/services.yaml"]))
    write_kubectl(tmp_path, namespace="models", service=service, pods={})
    with pytest.raises(InputRefused, match="pods of trtllm-serve have none, and are not promoted"):
        Kubectl("models").service(service["metadata"]["name"])


def test_a_missing_kubectl_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentUnusable, match="kubectl is not on PATH"):
        Kubectl("models").service("llm")


def test_a_port_forward_that_opens_nothing_is_refused_with_its_words(cluster: Cluster) -> None:
    forward = Kubectl("models").forwarded("pod/green-0", 8001)
    with pytest.raises(EnvironmentUnusable, match="opened no port: error: nothing to forward to"), forward:
        pass


def test_cluster_options_are_refused_for_local_servers(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["promote", "tiny", "--service", "llm", "--watch-url", "h:1"]) == 2
    assert "--service, --watch-url: for --target kubernetes only" in capsys.readouterr().err


@pytest.mark.parametrize("case", ["smollm2-reference", "llama70b-tensorrt", "llama405b-tensorrt"])
def test_the_generated_service_selects_by_the_label_that_is_patched(case: str) -> None:
    """Another release differs in that label alone, so the patched Service takes its pods."""
    target = "multi-node" if case.startswith("llama405b") else "kubernetes"
    deployment = deployment_of(case, target)
    blue, green = (
        [
            found
            for name, text in target_files(target, deployment.model_copy(update={"name": release})).items()
            if name.endswith(".yaml")
            for found in yaml.safe_load_all(text)
        ]
        for release in ("blue", "green")
    )
    service = next(found for found in blue if found.get("kind") == "Service")["spec"]
    turned = {**service["selector"], INSTANCE: "green"}
    assert service["selector"][INSTANCE] == "blue"
    assert any(turned.items() <= found.items() for found in pod_labels(green))
    assert [port["targetPort"] for port in service["ports"] if port["name"] == "grpc"] == ["grpc"]


def pod_labels(value: Any) -> list[dict[str, str]]:
    """The labels of every pod template inside an object."""
    if isinstance(value, list):
        return [found for item in value for found in pod_labels(item)]
    if not isinstance(value, dict):
        return []
    own = [value["metadata"]["labels"]] if "containers" in value.get("spec", {}) else []
    return own + [found for item in value.values() for found in pod_labels(item)]


def test_the_chart_selects_by_the_name_of_the_release() -> None:
    text = helm.helm_files(deployment_of("smollm2-reference", "helm"))["templates/services.yaml"]
    assert text.count(f"    {INSTANCE}: {{{{ .Release.Name }}}}") >= 2
