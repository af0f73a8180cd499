"""What a deployment of one engine needs, whatever the target: image, ranks, nodes, sizes, times, command.

It is computed from engine.json and the user's options alone, without looking at a machine, so that equal
inputs give equal files. The targets print it.
"""

from __future__ import annotations

import hashlib
import json
import re
from ipaddress import ip_network
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from tpforge import __version__
from tpforge.errors import UsageError
from tpforge.manifest import Manifest
from tpforge.records import Record
from tpforge.trtllm.versions import find_release
from tpforge.units import GIB, counted
from triton_repo.deploy.engine_url import refuse_engine_url
from triton_repo.serve.mpirun import TritonArguments, leader_command, llmapi_command
from triton_repo.serve.ports import Ports
from triton_repo.serve.start_time import start_seconds

STORE = PurePosixPath("/srv/engines")
"""Where engines lie in a container; read-only for the server."""
HOME = PurePosixPath("/srv/tpforge")
"""What a container makes for itself: a link to its engine, the model repository, state and logs."""
IMAGE = f"tpforge:{__version__}"
"""The image of the Dockerfile that every deployment brings: tpforge, and Triton on the CPU."""
PULL_S = 3600
CONFIG = PurePosixPath("/etc/tpforge")
"""Where a container finds the scripts of its deployment."""
UNLISTED_S = 15
"""For so long a pod that is told to end goes on serving, until load balancers take it off their lists."""
END_S = 15
"""What the ranks may take to end once no request is in flight, or the grace is over."""
SLOWEST_TOKENS_PER_S = 25
"""Assumed of one stream under load; it bounds how long a request may take to end, and nothing else."""
LEAST_GRACE_S, MOST_GRACE_S = 30, 600

Size = Annotated[int, Field(ge=1)]
Cidr = Annotated[str, AfterValidator(lambda text: str(ip_network(text)))]
Taint = Annotated[str, Field(pattern=r"^[\w./-]+(=[\w.-]*)?(:(NoSchedule|PreferNoSchedule|NoExecute))?$")]
LabelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]*$")]
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
    `allow_from` are addresses of clients outside the namespace. `surge` is how many pods a rollout may add;
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


class Deployment(Record):
    """An engine and the sizes of what serves it; a template prints these and computes nothing."""

    schema_version: Literal[1] = 1
    name: str
    runtime: Literal["reference", "tensorrt", "pytorch"]
    trtllm: str | None
    image: str
    tools_image: str
    engine_dir: Path
    engine_key: str
    engine_bytes: int
    engine_sha256: str
    tp_size: int
    pp_size: int
    num_nodes: int
    ranks_per_node: int
    gpus_per_node: int
    gpu_labels: dict[str, str]
    canary_model: Literal["ensemble", "tensorrt_llm"]
    ports: Ports
    start_s: int
    grace_s: int
    shm_gib: int
    memory_gib: int
    options: DeployOptions
    llm_backend: Annotated[str, Field(exclude=True)] = "pytorch"
    warnings: tuple[str, ...] = ()

    @property
    def world_size(self) -> int:
        """Number of ranks."""
        return self.num_nodes * self.ranks_per_node

    @property
    def needs_gpus(self) -> bool:
        """Whether ranks are processes on GPUs."""
        return self.runtime != "reference"

    @property
    def rollout_s(self) -> int:
        """How long a rollout may take: images and engine are pulled before the server starts."""
        return self.start_s + PULL_S

    @property
    def stop_s(self) -> int:
        """How long a container may take to end after SIGTERM, until it is killed."""
        return self.grace_s + END_S

    @property
    def repository(self) -> PurePosixPath:
        """The model repository in the container."""
        return HOME / "repository"

    @property
    def engine_in_store(self) -> PurePosixPath:
        """The engine in the container."""
        return STORE / self.engine_key

    @property
    def command(self) -> tuple[str, ...]:
        """The words that start the server in its container, on one node."""
        if self.runtime == "reference":
            return (
                *("tpforge", "serve", str(HOME / "engine"), "--host", "0.0.0.0"),
                *("--port-base", str(self.ports.http), "--load-timeout", str(self.start_s)),
                *("--drain", str(self.grace_s)),
            )
        return (*self.process_1(), *self.launch(self.repository))

    def process_1(self, *, grace_s: int | None = None, folder: PurePosixPath = CONFIG) -> tuple[str, ...]:
        """The words before a command of ranks, which end them in order."""
        grace = str(self.grace_s if grace_s is None else grace_s)
        return ("python3", str(folder / "launch.py"), "--grace", grace)

    def launch(self, repository: PurePosixPath) -> tuple[str, ...]:
        """The words that start all ranks of TensorRT-LLM."""
        arguments = TritonArguments(repository=Path(repository), ports=self.ports, drain_s=self.grace_s)
        if self.runtime == "tensorrt":
            return leader_command(arguments, world_size=self.world_size).words
        return llmapi_command(arguments, world_size=self.world_size).words


def plan_deployment(engine_dir: Path, manifest: Manifest, options: DeployOptions) -> Deployment:
    """The deployment of an engine.

    Raises:
        UsageError: a name that Kubernetes cannot carry, or ranks that do not divide over whole nodes.
    """
    refuse_engine_url(options.engine_url, digest=options.digest, any_digest=options.any_digest)
    world_size = manifest.num_ranks
    gpus = options.gpus_per_node if manifest.runtime != "reference" else world_size
    if world_size > gpus and world_size % gpus:
        raise UsageError(
            f"{counted(world_size, 'rank')} do not fill nodes of {counted(gpus, 'GPU')}; "
            f"give --gpus-per-node a divisor of {world_size}"
        )
    num_nodes = max(1, world_size // gpus)
    size = sum(file.size for file in manifest.files)
    return Deployment(
        name=label_of(manifest.name),
        runtime=manifest.runtime,
        trtllm=_trtllm(manifest),
        image=options.image or _image(manifest, options),
        tools_image=options.tools_image,
        engine_dir=engine_dir,
        engine_key=engine_key(manifest.name, options.digest),
        engine_bytes=size,
        engine_sha256=_engine_sha256(manifest),
        tp_size=manifest.mapping.tp_size,
        pp_size=manifest.mapping.pp_size,
        llm_backend=manifest.llm_backend,
        num_nodes=num_nodes,
        ranks_per_node=world_size // num_nodes,
        gpus_per_node=gpus,
        gpu_labels=_gpu_labels(manifest, options),
        canary_model="tensorrt_llm" if manifest.runtime == "pytorch" else "ensemble",
        ports=Ports.from_base(options.port_base),
        start_s=options.load_timeout or start_seconds(size, runtime=manifest.runtime),
        grace_s=_grace_s(manifest) if options.grace is None else options.grace,
        shm_gib=1 if manifest.runtime == "reference" else 16,
        memory_gib=_memory_gib(manifest, size=size, num_nodes=num_nodes),
        options=options,
    )


def label_of(name: str) -> str:
    """A name as Kubernetes takes it: lower case, digits and hyphens, at most 40 of them.

    Raises:
        UsageError: nothing of it is left.
    """
    label = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-")
    if not label or not label[0].isalpha():
        label = f"engine-{label}".strip("-")
    return label


def engine_key(name: str, digest: str | None) -> str:
    """The folder of an engine in the store; one of another digest is another folder."""
    if digest is None:
        return name
    bare = digest.removeprefix("sha256:")
    if not re.fullmatch(r"[0-9a-f]{64}", bare):
        raise UsageError(f"--digest {digest}: expected the 64 digits that `tpforge engines push` prints")
    return f"{name}-{bare[:12]}"


def _engine_sha256(manifest: Manifest) -> str:
    """What tells two engines of one name apart: paths and hashes of their files."""
    listed = sorted((file.path, file.sha256) for file in manifest.files)
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


def _trtllm(manifest: Manifest) -> str | None:
    if manifest.runtime == "tensorrt":
        return manifest.engine_build.trtllm if manifest.engine_build else None
    return manifest.llm_api.trtllm if manifest.runtime == "pytorch" and manifest.llm_api else None


def _image(manifest: Manifest, options: DeployOptions) -> str:
    """The NGC container of the engine's release, or for the reference runtime the image with tpforge.

    Raises:
        UsageError: no container of the release is known.
    """
    if manifest.runtime == "reference":
        return options.tools_image
    release = _trtllm(manifest)
    image = find_release(release).image if release else None
    if image is None:
        raise UsageError(f"no Triton container of TensorRT-LLM {release} is known; {_instead(manifest)}")
    return image


def _instead(manifest: Manifest) -> str:
    """What serves an engine whose release no Triton container has."""
    own = "give --image where you have one"
    if manifest.runtime != "pytorch":
        return own
    return (
        "use --target slurm or `tpforge serve`, which start trtllm-serve, or --target dynamo with --image of "
        f"Dynamo's runtime, or {own}"
    )


def _gpu_labels(manifest: Manifest, options: DeployOptions) -> dict[str, str]:
    """Labels of the nodes that can run it: the product, else the compute capability.

    Source: NVIDIA/k8s-device-plugin, docs/gpu-feature-discovery (labels).
    """
    if manifest.runtime == "reference":
        return {}
    if options.gpu_product:
        return {"nvidia.com/gpu.product": options.gpu_product}
    build, api = manifest.engine_build, manifest.llm_api
    if build is not None and build.gpu:
        return {"nvidia.com/gpu.product": build.gpu.replace(" ", "-")}
    sm = build.sm if build is not None else (api.sm if api is not None else None)
    if sm is None:
        return {}
    return {"nvidia.com/gpu.compute.major": str(sm // 10), "nvidia.com/gpu.compute.minor": str(sm % 10)}


def _grace_s(manifest: Manifest) -> int:
    """How long the longest request of the engine takes when its stream is slow, within bounds."""
    longest = ceil(manifest.limits.max_seq_len / SLOWEST_TOKENS_PER_S)
    return min(MOST_GRACE_S, max(LEAST_GRACE_S, longest))


def _memory_gib(manifest: Manifest, *, size: int, num_nodes: int) -> int:
    """Host memory of a node: rank files are read through it; torch on the CPU holds them in float32."""
    if manifest.runtime == "reference":
        return 2 + ceil(3 * size / GIB)
    return 16 + ceil(size / num_nodes / GIB)
