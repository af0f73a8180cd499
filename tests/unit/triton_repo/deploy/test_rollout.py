"""What has to start again is told to: two renderings differ in what an orchestrator compares.

No cluster is asked; what is compared is the pod template, or a service of compose, as each target prints it.
"""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.support.deployments import MANIFESTS, deployment_of, documents
from triton_repo.deploy.deployment import Deployment, plan_deployment
from triton_repo.deploy.targets import target_files

CASE = {
    "compose": "llama70b-tensorrt",
    "kubernetes": "llama70b-tensorrt",
    "helm": "llama70b-tensorrt",
    "multi-node": "llama405b-tensorrt",
}


def compared(target: str, deployment: Deployment) -> dict[str, Any]:
    """What an orchestrator compares with what runs, by container or pod."""
    files = target_files(target, deployment)
    if target == "compose":
        services = yaml.safe_load(files["compose.yaml"])["services"]
        return {name: services[name] for name in ("prepare", "triton")}
    if target == "helm":
        pod = files["templates/deployment.yaml"].partition("\n  template:\n")[2]
        values = yaml.safe_load(files["values.yaml"])
        # The values that a pod template reads.
        return {"server": (pod, [values[name] for name in ("image", "loadTimeout", "nodeLabels")])}
    if target == "kubernetes":
        (found,) = [one for one in documents(files) if one["kind"] == "Deployment"]
        return {"server": found["spec"]["template"]}
    (found,) = [one for one in documents(files) if one["kind"] == "LeaderWorkerSet"]
    template = found["spec"]["leaderWorkerTemplate"]
    return {name: template[f"{name}Template"] for name in ("leader", "worker")}


def render(target: str, **changes: Any) -> dict[str, Any]:
    given = {"engine_url": "s3://models/it", "digest": "ab" * 32, **changes}
    return compared(target, deployment_of(CASE[target], target, **given))


@pytest.mark.parametrize("target", CASE)
@pytest.mark.parametrize(
    "change",
    [
        {"digest": "cd" * 32},
        {"digest": "ab" * 31 + "cd"},  # The folder's name has its first twelve digits only.
        {"engine_url": "s3://models/other"},
        {"port_base": 9000},
        {"image": "registry.example/triton@sha256:" + "12" * 32},
    ],
    ids=str,
)
def test_what_runs_is_replaced_when_what_it_was_started_with_changes(
    target: str, change: dict[str, Any]
) -> None:
    before, after = render(target), render(target, **change)
    # A container of compose that only pulls has no port and an image of its own; a worker no port's probe.
    server = {"digest", "engine_url"} & change.keys()
    for name in before if server else [name for name in before if name != "prepare"]:
        assert before[name] != after[name], name


@pytest.mark.parametrize("target", CASE)
def test_a_rebuilt_engine_of_the_same_name_replaces_what_runs(target: str) -> None:
    manifest = MANIFESTS[CASE[target]]
    first, *others = manifest.files
    rebuilt = manifest.model_copy(update={"files": (first.model_copy(update={"sha256": "99" * 32}), *others)})
    deployment = deployment_of(CASE[target], target)
    again = plan_deployment(deployment.engine_dir, rebuilt, deployment.options)
    before, after = compared(target, deployment), compared(target, again)
    assert all(before[name] != after[name] for name in before)
    if target == "compose":
        texts = [target_files(target, one)["compose.yaml"] for one in (deployment, again)]
        old, new = (yaml.safe_load(text)["services"]["prometheus"] for text in texts)
        assert old == new, "an engine is none of its business"


@pytest.mark.parametrize("target", CASE)
@pytest.mark.parametrize("change", [{"max_replicas": 9}, {"replicas": 3}, {"storage_class": "fast"}], ids=str)
def test_what_no_container_reads_replaces_nothing(target: str, change: dict[str, Any]) -> None:
    assert render(target) == render(target, **change)


def test_an_apply_does_not_undo_the_autoscaler_which_waits_for_a_replica_to_start() -> None:
    deployment = deployment_of("llama70b-tensorrt", "kubernetes")
    files = target_files("kubernetes", deployment)
    overlay = yaml.safe_load(files["overlays/production/kustomization.yaml"])
    (patch,) = overlay["patches"]
    assert patch["target"] == {"kind": "Deployment", "name": deployment.name}
    assert yaml.safe_load(patch["patch"]) == [{"op": "remove", "path": "/spec/replicas"}]
    scaler = yaml.safe_load(files["overlays/production/autoscaling.yaml"])["spec"]["behavior"]
    (policy,) = scaler["scaleUp"]["policies"]
    assert policy == {"type": "Pods", "value": 1, "periodSeconds": deployment.start_s}
    assert policy["periodSeconds"] == 985  # 141.1 GB at 250 MB/s, and seven minutes: it takes no load before.


def test_prometheus_and_grafana_start_again_when_their_files_change() -> None:
    def services(port: int) -> Any:
        files = target_files("compose", deployment_of("llama70b-tensorrt", "compose", port_base=port))
        return yaml.safe_load(files["compose.yaml"])["services"]

    before, after = services(8000), services(9000)
    assert before["prometheus"] != after["prometheus"], "it would scrape the old port"
    assert before["grafana"] == after["grafana"]


@pytest.mark.parametrize("given", [None, 45])
def test_a_container_is_killed_only_after_what_is_in_flight_had_its_time(given: int | None) -> None:
    # 8192 tokens at 25 a second; a pod first serves on for 15 s, until balancers have forgotten it.
    grace = 328 if given is None else given
    leader = {"engine_url": "s3://models/it", "grace": given}
    for target in ("kubernetes", "multi-node"):
        for name, pod in compared(target, deployment_of(CASE[target], target, **leader)).items():
            spec = pod["spec"]
            server = spec["containers"][0]
            assert spec["terminationGracePeriodSeconds"] == 15 + grace + 15
            if name == "worker":  # It holds its ranks while the leader drains.
                assert server["command"][-1] == str(15 + grace) and "lifecycle" not in server
            else:
                assert server["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "15"]
    (service,) = [
        one
        for name, one in compared("compose", deployment_of(CASE["compose"], "compose", grace=given)).items()
        if name == "triton"
    ]
    assert service["stop_grace_period"] == f"{grace + 15}s"
    assert service["command"][:4] == ["python3", "/etc/tpforge/launch.py", "--grace", str(grace)]
    assert f"--exit-timeout-secs={grace}" in service["command"], "Triton's own limit is 30 s"
    files = target_files("slurm", deployment_of(CASE["compose"], "slurm", grace=given))
    assert f"#SBATCH --signal=B:TERM@{grace + 75}\n" in files["job.sh"]
    assert files["rank.sh"].count(f"exec python3 launch.py --grace {grace} ") == 2
