"""values.yaml of the chart and its schema: what one installation may change, as one table.

It makes no template: helm.py puts the values into the objects.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from tpforge.recipe import ServeRecipe
from tpforge.records import Record
from triton_repo.deploy.deployment import Deployment
from triton_repo.deploy.kubernetes import objects
from triton_repo.deploy.kubernetes.placement import placed
from triton_repo.deploy.kubernetes.resources import resources
from triton_repo.deploy.options import Cidr, DeployOptions, EnvironmentName

_RECIPE = {"loadTimeout": "load_timeout"}
"""Values that `[serve]` of a recipe has too: they are checked by the recipe's own schema."""
Quantity = Annotated[str, Field(pattern=r"^\d+(\.\d+)?(m|k|[KMGTP]i?)?$")]


def _is_none(value: object) -> bool:
    return value is None


class MonitoringValues(Record):
    """Objects of the Prometheus operator, and the dashboard for Grafana's sidecar.

    `namespace` is that of Prometheus, where the policy of the network has to know it.
    """

    enabled: bool = False
    namespace: str | None = Field(default=None, min_length=1, exclude_if=_is_none)


class AutoscalingValues(Record):
    """The autoscaler, which needs prometheus-adapter."""

    enabled: bool = False
    maxReplicas: int = Field(default=4, ge=1)  # noqa: N815


class StorageValues(Record):
    """The claim that holds engines."""

    size: str = Field(pattern=r"^\d+(Gi|Ti)$")
    className: str = ""  # noqa: N815


class TolerationValues(Record):
    """A taint that pods tolerate, as Kubernetes writes it."""

    key: str | None = Field(default=None, exclude_if=_is_none)
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str | None = Field(default=None, exclude_if=_is_none)
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, exclude_if=_is_none
    )
    tolerationSeconds: int | None = Field(default=None, exclude_if=_is_none)  # noqa: N815


class PullSecretValues(Record):
    """A secret with the credentials of a registry."""

    name: str = Field(min_length=1)


class ResourceValues(Record):
    """What the server's container asks for and may have; equal, and so in all, it is never evicted first."""

    requests: dict[str, Quantity] = Field(default_factory=dict)
    limits: dict[str, Quantity] = Field(default_factory=dict)


class ChartValues(Record):
    """values.yaml: what one installation may change."""

    replicas: int = Field(ge=1)
    surge: int = Field(ge=0)
    loadTimeout: float  # noqa: N815
    image: str = Field(min_length=1)
    toolsImage: str = Field(min_length=1)  # noqa: N815
    imagePullSecrets: tuple[PullSecretValues, ...]  # noqa: N815
    serviceType: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"  # noqa: N815
    storage: StorageValues
    nodeLabels: dict[str, str]  # noqa: N815
    tolerations: tuple[TolerationValues, ...]
    spread: str
    priorityClassName: str  # noqa: N815
    runtimeClassName: str  # noqa: N815
    podAnnotations: dict[str, str]  # noqa: N815
    resources: ResourceValues
    env: dict[EnvironmentName, str]
    allowFrom: tuple[Cidr, ...] = ()  # noqa: N815
    autoscaling: AutoscalingValues
    monitoring: MonitoringValues


_TAKEN = (
    "priority_class",
    "runtime_class",
    "pull_secrets",
    "tolerations",
    "annotations",
    "environment",
    "spread",
)
"""Options that are values of the chart, and so stand in none of its templates."""


def values(deployment: Deployment) -> ChartValues:
    """The values that give the objects of target kubernetes."""
    claim = objects.storage(deployment)["spec"]["resources"]["requests"]["storage"]
    options, place = deployment.options, placed(deployment)
    return ChartValues(
        replicas=options.replicas,
        surge=options.surge,
        loadTimeout=deployment.start_s,
        image=deployment.image,
        toolsImage=deployment.tools_image,
        imagePullSecrets=place.get("imagePullSecrets", ()),
        storage=StorageValues(size=claim, className=options.storage_class or ""),
        nodeLabels=deployment.gpu_labels,
        tolerations=place.get("tolerations", ()),
        spread=options.spread or "",
        priorityClassName=options.priority_class or "",
        runtimeClassName=options.runtime_class or "",
        podAnnotations=dict(options.annotations),
        resources=ResourceValues.model_validate(resources(deployment)),
        env=dict(options.environment),
        allowFrom=options.allow_from,
        autoscaling=AutoscalingValues(maxReplicas=max(options.replicas, options.max_replicas)),
        monitoring=MonitoringValues(
            namespace=options.monitor_namespace if deployment.server == "trtllm-serve" else None
        ),
    )


def without_values(options: DeployOptions) -> DeployOptions:
    """The options that remain where the values stand in the templates."""
    none = DeployOptions()
    taken = {name: getattr(none, name) for name in _TAKEN}
    return options.model_copy(update=taken)


def schema() -> dict[str, Any]:
    """values.schema.json, by which Helm checks what it is given."""
    found = ChartValues.model_json_schema()
    for name, key in _RECIPE.items():
        own = ServeRecipe.model_json_schema()["properties"][key]
        # A recipe may leave it out; a chart has a value always.
        own = next((one for one in own.get("anyOf", ()) if one["type"] != "null"), own)
        found["properties"][name] |= {word: bound for word, bound in own.items() if word != "default"}
    return {"$schema": "https://json-schema.org/draft-07/schema#", **_draft7(found)}


def _draft7(value: Any) -> Any:
    """Pydantic's schema with draft 7's name for definitions, which Helm reads in every version."""
    if isinstance(value, dict):
        return {key.replace("$defs", "definitions"): _draft7(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_draft7(item) for item in value]
    return value.replace("#/$defs/", "#/definitions/") if isinstance(value, str) else value
