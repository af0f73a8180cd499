"""Custom kinds hold their own APIs' fields; the pods of a LeaderWorkerSet, Kubernetes'."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from tests.support.deployments import CASES, deployment_of, documents
from tests.support.upstream.custom_kinds import SCHEMAS
from triton_repo.deploy.targets import target_files

pytestmark = pytest.mark.manifests

Found = dict[str, list[Any]]


@pytest.fixture(scope="module")
def found() -> Found:
    """The custom objects of every golden deployment, by kind."""
    by_kind: Found = {name: [] for name in SCHEMAS}
    for case, target in CASES:
        if target in ("kubernetes", "multi-node", "dynamo", "kserve"):
            for document in documents(target_files(target, deployment_of(case, target))):
                if document["kind"] in SCHEMAS:
                    by_kind[document["kind"]].append(document)
    return by_kind


def problems(value: Any) -> list[str]:
    jsonschema = pytest.importorskip("jsonschema", reason="pip install jsonschema")
    validator = jsonschema.Draft202012Validator(SCHEMAS[value["kind"]])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


@pytest.mark.parametrize("kind", SCHEMAS)
def test_every_custom_object_holds_only_what_its_api_knows(kind: str, found: Found) -> None:
    assert found[kind], "no golden deployment has one"
    assert [line for value in found[kind] for line in problems(value)] == []


@pytest.mark.parametrize("release", ["1.35", "1.37"])
def test_the_pods_of_a_leader_worker_set_are_valid_pods(release: str, found: Found) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for value in found["LeaderWorkerSet"]:
        group = value["spec"]["leaderWorkerTemplate"]
        for template in (group["leaderTemplate"], group["workerTemplate"]):
            pod = {"apiVersion": "v1", "kind": "Pod", **deepcopy(template)}
            validator.validate(pod, release, strict=True)


@pytest.mark.parametrize(
    ("kind", "path", "value", "words"),
    [
        ("LeaderWorkerSet", ("spec", "startupPolicy"), "LeaderCreate", "is not one of"),
        ("LeaderWorkerSet", ("spec", "leaderWorkerTemplate", "sizes"), 2, "'sizes' was unexpected"),
        ("ServingRuntime", ("spec", "initContainers"), [], "'initContainers' was unexpected"),
        (
            "InferenceService",
            ("spec", "predictor", "model", "storageURI"),
            "x",
            "was unexpected",
        ),
        ("DynamoGraphDeployment", ("spec", "components", 0, "type"), "router", "is not one of"),
        (
            "DynamoGraphDeployment",
            ("spec", "components", 1, "multinode"),
            {"nodeCount": 1},
            "less than the min",
        ),
        ("DynamoGraphDeployment", ("spec", "services"), {}, "'services' was unexpected"),
        ("ServiceMonitor", ("spec", "endpoints", 0, "interval"), "15", "does not match"),
        ("ServiceMonitor", ("spec", "endpoints", 0, "relabelings", 0, "target_label"), "x", "unexpected"),
        ("PrometheusRule", ("spec", "groups", 0, "rules", 0, "labels"), {"a": 1}, "is not of type 'string'"),
    ],
)
def test_a_mistake_in_a_custom_object_is_found(
    kind: str, path: tuple[Any, ...], value: Any, words: str, found: Found
) -> None:
    broken = deepcopy(found[kind][0])
    place = broken
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (line,) = problems(broken)
    assert words in line
