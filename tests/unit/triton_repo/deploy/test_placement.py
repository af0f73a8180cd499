"""What a site's scheduler is told: surge, priority, runtime class, pull secrets, tolerations, a queue."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.support.deployments import deployment_of, documents
from triton_repo.deploy.options import DeployOptions
from triton_repo.deploy.targets import target_files

GIVEN = {
    "priority_class": "serving",
    "runtime_class": "nvidia",
    "pull_secrets": ("registry",),
    "tolerations": ("team=llm:NoSchedule", "spot"),
    "queue": "gpus",
    "queue_topology": "cloud.provider.com/topology-rack",
}
CASES = {
    "kubernetes": ("llama70b-tensorrt", "Deployment"),
    "multi-node": ("llama405b-tensorrt", "LeaderWorkerSet"),
}


def rendered(target: str, **options: Any) -> tuple[Any, list[Any]]:
    """The object that makes pods, and the templates of these."""
    case, kind = CASES[target]
    found = documents(target_files(target, deployment_of(case, target, **options)))
    (one,) = [one for one in found if one["kind"] == kind]
    if kind == "Deployment":
        return one, [one["spec"]["template"]]
    group = one["spec"]["leaderWorkerTemplate"]
    return one, [group["leaderTemplate"], group["workerTemplate"]]


@pytest.mark.parametrize("target", CASES)
def test_every_pod_carries_what_the_site_wants(target: str) -> None:
    made_by, templates = rendered(target, **GIVEN)
    assert made_by["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    for template in templates:
        spec = template["spec"]
        assert (spec["priorityClassName"], spec["runtimeClassName"]) == ("serving", "nvidia")
        assert spec["imagePullSecrets"] == [{"name": "registry"}]
        assert spec["tolerations"] == [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "team", "operator": "Equal", "value": "llm", "effect": "NoSchedule"},
            {"key": "spot", "operator": "Exists"},
        ]
        domain = template["metadata"]["annotations"]["kueue.x-k8s.io/podset-required-topology"]
        assert domain == "cloud.provider.com/topology-rack"
        assert "kueue.x-k8s.io/queue-name" not in template["metadata"]["labels"]


@pytest.mark.parametrize("target", CASES)
def test_what_is_not_said_is_not_written(target: str) -> None:
    made_by, templates = rendered(target)
    assert not any("kueue" in key for key in made_by["metadata"]["labels"])
    for template in templates:
        assert not {"priorityClassName", "runtimeClassName", "imagePullSecrets"} & template["spec"].keys()
        assert list(template["metadata"]["annotations"]) == ["checksum/config"]


def test_without_a_spare_node_the_old_pod_goes_first() -> None:
    for surge, unavailable in ((1, 0), (2, 0), (0, 1)):
        made_by, _ = rendered("kubernetes", surge=surge)
        expected = {"maxSurge": surge, "maxUnavailable": unavailable}
        assert made_by["spec"]["strategy"]["rollingUpdate"] == expected, "both 0 would never roll out"


@pytest.mark.parametrize("taint", ["", "a=b:Never", "a b", "=x:NoSchedule"])
def test_a_taint_that_is_none_is_refused(taint: str) -> None:
    with pytest.raises(ValidationError):
        DeployOptions.model_validate({"tolerations": (taint,)})


@pytest.mark.parametrize("target", CASES)
def test_annotations_and_spread_are_of_the_pods_of_this_engine(target: str) -> None:
    given = {"annotations": (("team/on-call", "llm"),), "spread": "topology.kubernetes.io/zone"}
    for template in rendered(target, **given)[1]:
        assert template["metadata"]["annotations"]["team/on-call"] == "llm"
        (constraint,) = template["spec"]["topologySpreadConstraints"]
        assert constraint["topologyKey"] == "topology.kubernetes.io/zone"
        selected = constraint["labelSelector"]["matchLabels"].items()
        assert selected <= template["metadata"]["labels"].items()


@pytest.mark.parametrize("target", CASES)
def test_guaranteed_pods_have_limits_that_are_their_requests_in_every_container(target: str) -> None:
    """By Kubernetes' own rule: every container, those that run before included, for CPU and memory."""
    for template in rendered(target, guaranteed=True)[1]:
        for container in (*template["spec"]["initContainers"], *template["spec"]["containers"]):
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["limits"].keys()
            assert resources["limits"] == resources["requests"]


def test_ranks_of_several_nodes_join_one_nvlink_domain() -> None:
    options = {"compute_domain": True, "guaranteed": True}
    found = documents(
        target_files("multi-node", deployment_of("llama405b-tensorrt", "multi-node", **options))
    )
    (domain,) = [one for one in found if one["kind"] == "ComputeDomain"]
    template = domain["spec"]["channel"]["resourceClaimTemplate"]["name"]
    for pod in rendered("multi-node", **options)[1]:
        (claim,) = pod["spec"]["resourceClaims"]
        assert claim["resourceClaimTemplateName"] == template
        assert pod["spec"]["containers"][0]["resources"]["claims"] == [{"name": claim["name"]}]
    assert not any("resourceClaims" in pod["spec"] for pod in rendered("multi-node")[1])
