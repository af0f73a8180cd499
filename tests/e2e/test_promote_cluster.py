"""Promotion by a Service's selector: real servers of two releases, a stand-in for kubectl and the cluster.

The Service and the labels of the pods are those of the generated manifests. No Kubernetes runs here.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from scripts.main import main
from tests.e2e.conftest import Engine, Serving, quiet, served
from tests.support.deployments import deployment_of
from tests.support.servers.standin_kubectl import Cluster, write_kubectl
from tpforge.errors import EnvironmentUnusable, RegressionFound, VerificationFailed
from tpforge.repository_options import ReferenceOptions
from triton_repo.deploy.kubernetes import objects
from triton_repo.promote.cluster import Releases, promote_release
from triton_repo.promote.kubectl import INSTANCE, Kubectl
from triton_repo.promote.promotion import PromoteOptions

pytestmark = pytest.mark.e2e
KUBECTL = Kubectl("models")
RELEASES = Releases(service="blue", active="blue", candidate="green")
OPTIONS = PromoteOptions(num_requests=8, concurrency=2, max_tokens=8, max_p95_ms=200_000)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Not yet any pod: `install` writes them."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return Cluster(tmp_path)


def install(cluster: Cluster, *, blue: str, green: str) -> None:
    """Releases of these names from the generated manifests, whose pods are these servers."""
    deployment = deployment_of("smollm2-reference", "kubernetes")
    pods = {}
    for name, url in (("blue", blue), ("green", green)):
        installed = objects.objects(deployment.model_copy(update={"name": name}))["deployment"][0]
        pods[f"{name}-7d9c5-x2x4q"] = (installed["spec"]["template"]["metadata"]["labels"], url)
    service = objects.service(deployment.model_copy(update={"name": "blue"}))
    write_kubectl(cluster.folder, namespace="models", service=service, pods=pods)


def test_the_selector_goes_to_the_candidate_and_nothing_else_changes(
    cluster: Cluster, lockstep: Serving, processes_server: Serving, capsys: pytest.CaptureFixture[str]
) -> None:
    install(cluster, blue=lockstep.server.grpc_url, green=processes_server.server.grpc_url)
    words = ["promote", "--target", "kubernetes", "--namespace", "models", "--service", "blue"]
    words += ["--active", "blue", "--candidate", "green", "--requests", "8", "--max-p95-ms", "200000"]
    before = cluster.selector
    assert main([*words, "--dry-run"]) == 0
    said = [shlex.split(line) for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    assert cluster.selector == before and cluster.calls("patch") == []
    (cluster.folder / "calls.jsonl").write_text("")
    assert main(words) == 0
    assert cluster.selector == {**before, INSTANCE: "green"}
    assert "service blue of models" in capsys.readouterr().out
    patches = cluster.calls("patch")
    assert len(patches) == 1
    # What a dry run prints is what a run does: its three last commands are those of going back.
    forwards, done = cluster.calls("port-forward"), [line[1:] for line in said]
    assert sorted(forwards) == sorted(line for line in done[:-3] if "port-forward" in line)
    assert patches == [line for line in done[:-3] if "patch" in line]
    assert next(line for line in done[-3:] if "patch" in line)[-1] == (
        '--patch=[{"op":"test","path":"/spec/selector/app.kubernetes.io~1instance","value":"green"},'
        '{"op":"replace","path":"/spec/selector/app.kubernetes.io~1instance","value":"blue"}]'
    )


def test_the_selector_goes_back_when_the_candidate_dies_after_the_shift(
    cluster: Cluster, lockstep: Serving, tiny_engine: Engine, tmp_path: Path
) -> None:
    selectors: list[str] = []
    options = ReferenceOptions(executor="lockstep", num_threads=1)
    with served(tiny_engine, tmp_path / "green", options) as green:
        install(cluster, blue=lockstep.server.grpc_url, green=green.server.grpc_url)

        def progress(message: str) -> None:
            if message.startswith("shifted"):
                selectors.append(cluster.selector[INSTANCE])
                stop_server(green)

        with pytest.raises(VerificationFailed, match=r"was lost.*blue is the active one again"):
            promote_release(KUBECTL, RELEASES, options=OPTIONS, progress=progress)
    assert selectors == ["green"]
    assert cluster.selector[INSTANCE] == "blue"
    assert [words[-1].rpartition('"value":')[2] for words in cluster.calls("patch")] == [
        '"green"}]',
        '"blue"}]',
    ]


def test_a_failing_canary_leaves_the_selector_alone(
    cluster: Cluster, lockstep: Serving, processes_server: Serving
) -> None:
    install(cluster, blue=lockstep.server.grpc_url, green=processes_server.server.grpc_url)
    strict = PromoteOptions(num_requests=4, concurrency=1, max_tokens=4, max_p95_ms=0.5)
    with pytest.raises(RegressionFound, match="nothing was shifted"):
        promote_release(KUBECTL, RELEASES, options=strict, progress=quiet)
    assert cluster.selector[INSTANCE] == "blue" and cluster.calls("patch") == []


def test_a_watch_that_fails_at_the_services_own_address_brings_the_selector_back(
    cluster: Cluster, lockstep: Serving, processes_server: Serving
) -> None:
    install(cluster, blue=lockstep.server.grpc_url, green=processes_server.server.grpc_url)
    releases = Releases(
        service="blue",
        active="blue",
        candidate="green",
        active_url=lockstep.server.grpc_url,
        candidate_url=processes_server.server.grpc_url,
        watch_url="127.0.0.1:9",
    )
    with pytest.raises(VerificationFailed, match="blue is the active one again"):
        promote_release(KUBECTL, releases, options=OPTIONS, progress=quiet)
    assert cluster.selector[INSTANCE] == "blue" and len(cluster.calls("patch")) == 2
    assert cluster.calls("port-forward") == [], "every URL was given"


def test_a_service_that_somebody_else_turned_is_left_there(
    cluster: Cluster, lockstep: Serving, processes_server: Serving
) -> None:
    install(cluster, blue=lockstep.server.grpc_url, green=processes_server.server.grpc_url)
    with pytest.raises(EnvironmentUnusable, match=r"testing value .* failed"):
        KUBECTL.turn("blue", before="green", after="red")
    assert cluster.selector[INSTANCE] == "blue"


def stop_server(serving: Serving) -> None:
    from triton_repo.serve.local import stop

    stop(serving.server.state_dir)
