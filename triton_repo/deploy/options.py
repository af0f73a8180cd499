"""What the user may say about a deployment, whatever the target.

It computes nothing; `deployment` does, from these and engine.json.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tpforge import __version__
from tpforge.records import Record

IMAGE = f"tpforge:{__version__}"
"""The image of the Dockerfile that every deployment brings: tpforge, and Triton on the CPU."""


def _spelled(pattern: str, expected: str) -> AfterValidator:
    """A validator that says in words what a pattern holds a text to."""
    spelling = re.compile(pattern)

    def check(text: str) -> str:
        if spelling.fullmatch(text) is None:
            raise ValueError(f"expected {expected}")
        return text

    return AfterValidator(check)


_LABEL, _NAME = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
_LETTERS = "small letters, figures and dashes"
Size = Annotated[int, Field(ge=1)]
Cidr = Annotated[str, AfterValidator(lambda text: str(ip_network(text)))]
Taint = Annotated[
    str,
    _spelled(
        r"[\w./-]+(=[\w.-]*)?(:(NoSchedule|PreferNoSchedule|NoExecute))?",
        "KEY[=VALUE][:EFFECT], the effect NoSchedule, PreferNoSchedule or NoExecute",
    ),
]
LabelName = Annotated[
    str, _spelled(r"[A-Za-z0-9][A-Za-z0-9_./-]*", "a label's name, such as topology.kubernetes.io/zone")
]
LabelValue = Annotated[
    str,
    _spelled(
        r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?",
        "a label's value without blanks, such as NVIDIA-H100-80GB-HBM3",
    ),
]
Namespace = Annotated[str, _spelled(_LABEL, f"a namespace: {_LETTERS}")]
Name = Annotated[str, _spelled(_NAME, f"a name of Kubernetes: {_LETTERS}, and points")]
Gateway = Annotated[str, _spelled(f"({_LABEL}/)?{_NAME}", f"[NAMESPACE/]NAME of {_LETTERS}")]
EnvironmentName = Annotated[
    str,
    _spelled(r"[A-Za-z_][A-Za-z0-9_]*", "a variable's name, such as NCCL_DEBUG"),
    # For the schema of a chart's values.
    Field(json_schema_extra={"pattern": "^[A-Za-z_][A-Za-z0-9_]*$"}),
]
Word = Annotated[str, _spelled(r"\S+", "a name without blanks")]
JobTime = Annotated[
    str,
    _spelled(
        r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}|UNLIMITED",
        "MINUTES, HOURS:MINUTES:SECONDS, DAYS-HOURS or what else sbatch --time takes",
    ),
]
RouterMode = Literal["round-robin", "random", "power-of-two", "least-loaded", "kv"]


def _is_none(value: object) -> bool:
    return value is None


class DeployOptions(Record):
    """What the user may say about a deployment.

    `image` replaces the server's image, and may be pinned (NAME@sha256:...); `tools_image` holds tpforge.
    `engine_url` is where `tpforge engines push` put the engine, `digest` what it printed; `storage_uri` is
    what KServe mounts instead. `gpu_product` is
    the label that NVIDIA's GPU feature discovery gives a node; `topology_key` the label of the domain that
    ranks of several nodes must share. A server may take `load_timeout` seconds to start, and at its end
    requests in flight may go on for `grace` seconds. `rdma` is the resource by which a cluster hands out
    its fabric's devices, `environment` what ranks are told besides (NCCL_*, UCX_*);
    `allow_from` are addresses of clients outside the namespace, and `gateway` is the cluster's Gateway that
    an endpoint picker answers, as NAMESPACE/NAME. `surge` is how many pods a rollout may add;
    with none, an old pod goes before its successor starts. `spread` is the label over whose domains pods
    are spread; `guaranteed` pods have limits that are their requests; a `compute_domain` joins nodes by
    NVLink. `monitor_labels` are those by which the cluster's
    Prometheus finds what it watches. Of Dynamo: `router_mode` is how its front chooses a worker,
    `prefill_workers` and `decode_workers` divide those into ones for prompts and ones for answers.
    """

    image: Word | None = None
    tools_image: Word = IMAGE
    engine_url: str | None = None
    digest: str | None = None
    any_digest: bool = False
    storage_uri: str | None = None
    namespace: Namespace = "default"
    replicas: Size = 1
    max_replicas: Size = 4
    gpus_per_node: Size = 8
    gpu_product: LabelValue | None = None
    topology_key: LabelName | None = None
    monitor_labels: tuple[tuple[LabelName, str], ...] = ()
    monitor_namespace: Namespace = "monitoring"
    surge: Annotated[int, Field(ge=0)] = 1
    priority_class: Name | None = None
    runtime_class: Name | None = None
    pull_secrets: tuple[Name, ...] = ()
    tolerations: tuple[Taint, ...] = ()
    spread: LabelName | None = None
    annotations: tuple[tuple[LabelName, str], ...] = ()
    guaranteed: bool = False
    queue: Name | None = None
    queue_topology: LabelName | None = None
    allow_from: tuple[Cidr, ...] = ()
    gateway: Gateway | None = Field(default=None, exclude_if=_is_none)
    rdma: LabelName | None = None
    rdma_count: Size = 1
    host_network: bool = False
    compute_domain: bool = False
    environment: tuple[tuple[EnvironmentName, str], ...] = ()
    port_base: Annotated[int, Field(ge=1024, le=65533)] = 8000
    storage_class: Name | None = None
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    router_mode: RouterMode | None = Field(default=None, exclude_if=_is_none)
    prefill_workers: Size | None = Field(default=None, exclude_if=_is_none)
    decode_workers: Size | None = Field(default=None, exclude_if=_is_none)
    container: Literal["pyxis", "modules"] = "pyxis"
    modules: tuple[str, ...] = ()
    time_limit: JobTime = "24:00:00"
    load_timeout: Size | None = None
    grace: Annotated[int, Field(ge=0, le=86400)] | None = None
