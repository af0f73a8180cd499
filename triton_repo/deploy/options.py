"""What the user may say about a deployment, whatever the target.

It computes nothing; `deployment` does, from these and engine.json.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tpforge import __version__
from tpforge.records import Record

IMAGE = f"tpforge:{__version__}"
"""The image of the Dockerfile that every deployment brings: tpforge, and Triton on the CPU."""
Size = Annotated[int, Field(ge=1)]
Cidr = Annotated[str, AfterValidator(lambda text: str(ip_network(text)))]
Taint = Annotated[str, Field(pattern=r"^[\w./-]+(=[\w.-]*)?(:(NoSchedule|PreferNoSchedule|NoExecute))?$")]
LabelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*$")]
Gateway = Annotated[str, Field(pattern=r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
EnvironmentName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
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

    image: str | None = None
    tools_image: str = IMAGE
    engine_url: str | None = None
    digest: str | None = None
    any_digest: bool = False
    storage_uri: str | None = None
    namespace: str = "default"
    replicas: Size = 1
    max_replicas: Size = 4
    gpus_per_node: Size = 8
    gpu_product: str | None = None
    topology_key: str | None = None
    monitor_labels: tuple[tuple[LabelName, str], ...] = ()
    monitor_namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")] = "monitoring"
    surge: Annotated[int, Field(ge=0)] = 1
    priority_class: str | None = None
    runtime_class: str | None = None
    pull_secrets: tuple[str, ...] = ()
    tolerations: tuple[Taint, ...] = ()
    spread: LabelName | None = None
    annotations: tuple[tuple[LabelName, str], ...] = ()
    guaranteed: bool = False
    queue: str | None = None
    queue_topology: str | None = None
    allow_from: tuple[Cidr, ...] = ()
    gateway: Gateway | None = Field(default=None, exclude_if=_is_none)
    rdma: str | None = None
    rdma_count: Size = 1
    host_network: bool = False
    compute_domain: bool = False
    environment: tuple[tuple[EnvironmentName, str], ...] = ()
    port_base: Annotated[int, Field(ge=1024, le=65533)] = 8000
    storage_class: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    router_mode: RouterMode | None = Field(default=None, exclude_if=_is_none)
    prefill_workers: Size | None = Field(default=None, exclude_if=_is_none)
    decode_workers: Size | None = Field(default=None, exclude_if=_is_none)
    container: Literal["pyxis", "modules"] = "pyxis"
    modules: tuple[str, ...] = ()
    time_limit: str = "24:00:00"
    load_timeout: Size | None = None
    grace: Annotated[int, Field(ge=0, le=86400)] | None = None
