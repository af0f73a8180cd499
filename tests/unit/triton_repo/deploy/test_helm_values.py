"""What an installation may change: a value gives what the option of `deploy` gives; others are refused.

Helm's own engine renders the chart and checks the values.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.deployments import deployment_of
from triton_repo.deploy.kubernetes.helm_values import values
from triton_repo.deploy.kubernetes.objects import objects
from triton_repo.deploy.targets import target_files

pytestmark = pytest.mark.manifests
CASE = "llama70b-tensorrt"
GIVEN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no pod beside": ({"surge": 0}, {"surge": 0}),
    "priority": ({"priority_class": "serving"}, {"priorityClassName": "serving"}),
    "runtime class": ({"runtime_class": "nvidia"}, {"runtimeClassName": "nvidia"}),
    "pull secrets": ({"pull_secrets": ("a", "b")}, {"imagePullSecrets": [{"name": "a"}, {"name": "b"}]}),
    "tolerations": (
        {"tolerations": ("team=llm:NoSchedule", "spot")},
        {
            "tolerations": [
                {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
                {"key": "team", "operator": "Equal", "value": "llm", "effect": "NoSchedule"},
                {"key": "spot", "operator": "Exists"},
            ]
        },
    ),
    "annotations": ({"annotations": (("a/b", "true"),)}, {"podAnnotations": {"a/b": "true"}}),
    "spread": ({"spread": "topology.kubernetes.io/zone"}, {"spread": "topology.kubernetes.io/zone"}),
    "environment": (
        {"environment": (("NCCL_DEBUG", "INFO"), ("UCX_TLS", "rc,{{cuda}}"))},
        {"env": {"NCCL_DEBUG": "INFO", "UCX_TLS": "rc,{{cuda}}"}},
    ),
}
REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"surge": -1}, "surge"),
    ({"tolerations": [{"key": "a", "operator": "Is"}]}, "operator"),
    ({"tolerations": [{"name": "a"}]}, "name"),
    ({"imagePullSecrets": ["registry"]}, "imagePullSecrets"),
    ({"resources": {"limits": {"memory": "many"}}}, "memory"),
    ({"env": {"A": 1}}, "env"),
    ({"nodeLabel": {}}, "nodeLabel"),
)


def chart(folder: Path, **options: Any) -> Any:
    helm = pytest.importorskip("helm_python", reason="pip install helm-python-sdk")
    deployment = deployment_of(CASE, "helm", **options)
    for name, text in target_files("helm", deployment).items():
        path = folder / deployment.name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return helm.Chart.load(str(folder / deployment.name))


def pods_of(opened: Any, given: dict[str, Any]) -> Any:
    rendered = opened.render(given, name=deployment_of(CASE, "helm").name, namespace="llm")
    (text,) = (text for path, text in rendered.items() if path.endswith("/deployment.yaml"))
    return yaml.safe_load(text)


def expected(**options: Any) -> Any:
    """The object of target kubernetes; the chart selects nodes by labels, which values.yaml may change."""
    deployment = deployment_of(CASE, "helm", **options)
    (found,) = objects(deployment)["deployment"]
    pod = found["spec"]["template"]["spec"]
    pod.pop("affinity")
    pod["nodeSelector"] = deployment.gpu_labels
    return found


@pytest.mark.parametrize("case", GIVEN)
def test_a_value_gives_what_the_option_gives(case: str, tmp_path: Path) -> None:
    options, given = GIVEN[case]
    with chart(tmp_path / "as-rendered", **options) as opened:
        assert pods_of(opened, {}) == expected(**options)
    with chart(tmp_path / "as-installed") as opened:
        opened.validate_schema({**values(deployment_of(CASE, "helm")).model_dump(mode="json"), **given})
        assert pods_of(opened, given) == expected(**options)


def test_guaranteed_pods_keep_their_limits_as_values(tmp_path: Path) -> None:
    with chart(tmp_path, guaranteed=True) as opened:
        assert pods_of(opened, {}) == expected(guaranteed=True)


@pytest.mark.parametrize(("given", "named"), REFUSED)
def test_a_value_of_another_kind_is_refused_by_name(
    given: dict[str, Any], named: str, tmp_path: Path
) -> None:
    with chart(tmp_path) as opened:
        own = values(deployment_of(CASE, "helm")).model_dump(mode="json")
        with pytest.raises(Exception, match=named):
            opened.validate_schema({**own, **given})
