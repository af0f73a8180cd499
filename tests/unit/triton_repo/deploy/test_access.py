"""What a pod may do and what it is given: no more than it uses."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.support.deployments import deployment_of, documents
from triton_repo.deploy.targets import target_files

FABRIC = {"rdma": "rdma/hca_shared_devices_a", "rdma_count": 8, "host_network": True}


def multi_node(**options: Any) -> dict[str, Any]:
    """The objects by kind."""
    files = target_files("multi-node", deployment_of("llama405b-tensorrt", "multi-node", **options))
    return {one["kind"]: one for one in documents(files)}


def pods(**options: Any) -> list[Any]:
    group = multi_node(**options)["LeaderWorkerSet"]["spec"]["leaderWorkerTemplate"]
    return [group[name]["spec"] for name in ("leaderTemplate", "workerTemplate")]


def test_the_set_may_exec_into_its_own_workers_alone() -> None:
    rules = multi_node(replicas=2)["Role"]["rules"]
    workers = ["llama-3-1-405b-instruct-tp8-pp2-0-1", "llama-3-1-405b-instruct-tp8-pp2-1-1"]
    assert [rule["resourceNames"] for rule in rules] == [workers, workers]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "create"}


def test_only_what_runs_kubectl_has_a_token() -> None:
    leader, worker = pods()
    assert leader["automountServiceAccountToken"] is worker["automountServiceAccountToken"] is False
    with_token = [
        container["name"]
        for pod in (leader, worker)
        for container in (*pod["initContainers"], *pod["containers"])
        if any(mount["name"] == "token" for mount in container["volumeMounts"])
    ]
    assert with_token == ["workers", "triton"]


def test_no_pod_asks_for_a_capability_that_the_restricted_standard_refuses() -> None:
    for pod in pods(**FABRIC):
        for container in (*pod["initContainers"], *pod["containers"]):
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_a_fabric_is_asked_for_by_the_resource_of_the_cluster() -> None:
    for pod in pods(**FABRIC):
        resources = pod["containers"][0]["resources"]
        assert resources["limits"]["rdma/hca_shared_devices_a"] == "8"
        assert resources["requests"]["rdma/hca_shared_devices_a"] == "8"
        assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "ClusterFirstWithHostNet")
    for pod in pods():
        assert "hostNetwork" not in pod
        assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "8"}


def test_ranks_are_told_what_the_user_says_in_every_target() -> None:
    given = {"environment": (("NCCL_IB_HCA", "mlx5"), ("UCX_TLS", "rc $x"))}
    for pod in pods(**given):
        assert {"name": "NCCL_IB_HCA", "value": "mlx5"} in pod["containers"][0]["env"]
    compose = target_files("compose", deployment_of("llama70b-tensorrt", "compose", **given))["compose.yaml"]
    # compose puts variables of its own where it reads a single dollar.
    assert yaml.safe_load(compose)["services"]["triton"]["environment"]["UCX_TLS"] == "rc $$x"
    rank = target_files("slurm", deployment_of("llama70b-tensorrt", "slurm", **given))["rank.sh"]
    assert "export NCCL_IB_HCA=mlx5\nexport UCX_TLS='rc $x'\n" in rank


@pytest.mark.parametrize("target", ["kubernetes", "helm"])
def test_an_image_with_tpforge_alone_needs_no_token(target: str) -> None:
    files = target_files(target, deployment_of("llama70b-tensorrt", target))
    assert not any("serviceAccountToken" in text for text in files.values())


def network(target: str = "kubernetes", **options: Any) -> Any:
    case = "llama405b-tensorrt" if target == "multi-node" else "llama70b-tensorrt"
    found = documents(target_files(target, deployment_of(case, target, **options)))
    return next(one["spec"] for one in found if one["kind"] == "NetworkPolicy")


@pytest.mark.parametrize("target", ["kubernetes", "multi-node"])
def test_the_clients_of_what_publishes_a_service_are_let_in_to_requests_alone(target: str) -> None:
    opened = [
        rule
        for rule in network(target, allow_from=("10.0.0.0/8",))["ingress"]
        if rule not in network(target)["ingress"]
    ]
    (rule,) = opened
    assert rule["from"] == [{"ipBlock": {"cidr": "10.0.0.0/8"}}]
    assert [port["port"] for port in rule["ports"]] == [8000, 8001], (
        "metrics are nobody's outside the cluster"
    )


@pytest.mark.parametrize("target", ["kubernetes", "multi-node"])
def test_a_published_service_has_no_metrics(target: str) -> None:
    case = "llama405b-tensorrt" if target == "multi-node" else "llama70b-tensorrt"
    services = [
        one
        for one in documents(target_files(target, deployment_of(case, target)))
        if one["kind"] == "Service"
    ]
    ports = {
        one["metadata"]["name"].endswith("-pods"): [port["name"] for port in one["spec"]["ports"]]
        for one in services
    }
    assert ports == {False: ["http", "grpc"], True: ["grpc", "metrics"]}


def test_pods_reach_name_servers_and_the_place_of_the_engine() -> None:
    def reached(**options: Any) -> set[int]:
        return {port["port"] for rule in network(**options)["egress"] for port in rule.get("ports", [])}

    assert reached() == {53, 443}
    assert reached(engine_url="http://models.llm:9000/it") == {53, 443, 9000}
    assert reached(engine_url="http://models.llm/it") == {53, 80, 443}
    both = {
        (port["protocol"])
        for rule in network()["egress"]
        for port in rule.get("ports", [])
        if port["port"] == 53
    }
    assert both == {"TCP", "UDP"}, "long answers of a name server come over TCP"
