"""What a deployment of one engine needs, whatever the target: image, ranks, nodes, sizes, times, command.

It is computed from engine.json and the user's options alone, without looking at a machine, so that equal
inputs give equal files. The targets print it.
"""

from __future__ import annotations

import hashlib
import json
import re
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import Field

from tpforge.errors import UsageError
from tpforge.manifest import Manifest
from tpforge.records import Record
from tpforge.trtllm.versions import find_release
from tpforge.units import GIB, counted
from triton_repo.deploy.engine_url import refuse_engine_url
from triton_repo.deploy.options import DeployOptions
from triton_repo.serve.mpirun import TritonArguments, leader_command, llmapi_command
from triton_repo.serve.ports import Ports
from triton_repo.serve.start_time import start_seconds
from triton_repo.trtllm_serve.command import QUIET, TrtllmServe, trtllm_serve_command
from triton_repo.trtllm_serve.settings import METRICS_PATH, missing_metrics, serving_yaml

STORE = PurePosixPath("/srv/engines")
"""Where engines lie in a container; read-only for the server."""
HOME = PurePosixPath("/srv/tpforge")
"""What a container makes for itself: a link to its engine, the model repository, state and logs."""
PULL_S = 3600
CONFIG = PurePosixPath("/etc/tpforge")
"""Where a container finds the scripts of its deployment."""
LLM_YAML = "llm.yaml"
"""Among them: what trtllm-serve is told, in the place of the engine's own."""
UNLISTED_S = 15
"""For so long a pod that is told to end goes on serving, until load balancers take it off their lists."""
END_S = 15
"""What the ranks may take to end once no request is in flight, or the grace is over."""
SLOWEST_TOKENS_PER_S = 25
"""Assumed of one stream under load; it bounds how long a request may take to end, and nothing else."""
LEAST_GRACE_S, MOST_GRACE_S = 30, 600


class Deployment(Record):
    """An engine and the sizes of what serves it; a template prints these and computes nothing.

    `server` is what answers clients: by `server_of` the engine, unless the target has a server of its own.
    """

    schema_version: Literal[1] = 1
    name: str
    runtime: Literal["reference", "tensorrt", "pytorch"]
    server: Literal["triton", "trtllm-serve", "dynamo"] = "triton"
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
    canary_model: str
    ports: Ports
    start_s: int
    grace_s: int
    shm_gib: int
    memory_gib: int
    options: DeployOptions
    llm_backend: Annotated[str, Field(exclude=True)] = "pytorch"
    llm_yaml: Annotated[str, Field(exclude=True)] = ""
    tells_load: Annotated[bool, Field(exclude=True)] = True
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
        return (*self.process_1(), *self.ranks(self.engine_in_store, self.repository))

    def ranks(self, engine: PurePosixPath, repository: PurePosixPath) -> tuple[str, ...]:
        """The words that start all ranks on one node, by trtllm-serve or behind Triton."""
        if self.server == "triton":
            return self.launch(repository)
        return trtllm_serve_command(self.trtllm_serve(Path(engine), config=Path(CONFIG / LLM_YAML))).words

    def trtllm_serve(self, engine: Path, *, config: Path | None = None) -> TrtllmServe:
        """What trtllm-serve is asked to serve; with its own llm.yaml where `config` is none."""
        assert self.trtllm is not None
        return TrtllmServe(
            engine=engine,
            name=self.served_name,
            version=self.trtllm,
            port=self.ports.http,
            address="0.0.0.0",
            config=config,
            backend=self.llm_backend,
        )

    @property
    def served_name(self) -> str:
        """The engine's name, which clients ask for; its folder in the store has a piece of the digest too."""
        return self.engine_key.rpartition("-")[0] if self.options.digest else self.engine_key

    @property
    def own_environment(self) -> dict[str, str]:
        """What the server's container needs beside what the user says."""
        return {} if self.server == "triton" else self.llm_environment

    @property
    def llm_environment(self) -> dict[str, str]:
        """What a process that starts the ranks of the LLM API needs, whatever is in front of it.

        Open MPI 5, of 1.3.0rc27 and later, starts no rank where the host's name is longer than a buffer of
        PMIx, as names of pods are. Sources: NVIDIA/TensorRT-LLM, pull request 19019; llm-d/llm-d,
        guides/optimized-baseline/modelserver/gpu/trtllm/base/patch-trtllm.yaml @2267387c36c6.
        """
        # Over several nodes mpirun starts the ranks, and names its hosts.
        return {**QUIET, **({"PMIX_HOSTNAME": "trtllm-node"} if self.num_nodes == 1 else {})}

    @property
    def open_ports(self) -> tuple[tuple[str, int], ...]:
        """Each port that the server listens on, with the name of what it serves there."""
        return self.ports.named() if self.server == "triton" else (("HTTP", self.ports.http),)

    @property
    def metrics(self) -> tuple[str, int, str]:
        """Where Prometheus reads: the port's name, its number, the path."""
        if self.server == "triton":
            return "metrics", self.ports.metrics, "/metrics"
        return "http", self.ports.http, METRICS_PATH

    def process_1(self, *, grace_s: int | None = None, folder: PurePosixPath = CONFIG) -> tuple[str, ...]:
        """The words before a command of ranks, which end them in order."""
        grace = str(self.grace_s if grace_s is None else grace_s)
        return ("python3", str(folder / "launch.py"), "--grace", grace)

    def launch(self, repository: PurePosixPath) -> tuple[str, ...]:
        """The words that start all ranks of TensorRT-LLM behind Triton, or over several nodes."""
        if self.server == "trtllm-serve":
            # Shells of other pods have not passed the image's entrypoint, which sets this path.
            started = ("mpirun", "--allow-run-as-root", "-n", str(self.world_size), "-x", "LD_LIBRARY_PATH")
            return (*started, "trtllm-llmapi-launch", *self.ranks(self.engine_in_store, repository))
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
    server = server_of(manifest)
    deployment = Deployment(
        name=label_of(manifest.name),
        runtime=manifest.runtime,
        server=server,
        trtllm=_trtllm(manifest),
        image=options.image or _image(manifest, options, server=server),
        tools_image=options.tools_image,
        engine_dir=engine_dir,
        engine_key=engine_key(manifest.name, options.digest),
        engine_bytes=size,
        engine_sha256=_engine_sha256(manifest),
        tp_size=manifest.mapping.tp_size,
        pp_size=manifest.mapping.pp_size,
        llm_backend=manifest.llm_backend,
        llm_yaml=serving_yaml(manifest.llm_api) if manifest.llm_api else "",
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
    if server == "triton":
        return deployment
    assert manifest.llm_api is not None
    missing = missing_metrics(manifest.llm_api)
    return deployment.model_copy(
        update={
            "canary_model": deployment.trtllm_serve(engine_dir).model_name,
            "tells_load": missing is None,
            "warnings": (missing,) if missing else (),
        }
    )


def server_of(manifest: Manifest) -> Literal["triton", "trtllm-serve"]:
    """What serves an engine: trtllm-serve where no container of Triton holds its release, as from 1.3 on."""
    release = _trtllm(manifest)
    if manifest.runtime != "pytorch" or release is None or find_release(release).triton:
        return "triton"
    return "trtllm-serve"


def refuse_several_nodes(deployment: Deployment) -> None:
    """For the targets whose replica is one node.

    Raises:
        UsageError: the engine needs more; it says what serves it.
    """
    if deployment.num_nodes == 1:
        return
    raise UsageError(
        f"{deployment.name}: {deployment.world_size} ranks need {deployment.num_nodes} nodes of "
        f"{deployment.gpus_per_node} GPUs; use --target multi-node or slurm"
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


def _image(manifest: Manifest, options: DeployOptions, *, server: str) -> str:
    """The container of the engine's release, or for the reference runtime the image with tpforge.

    Raises:
        UsageError: no container of the release is known.
    """
    if manifest.runtime == "reference":
        return options.tools_image
    release = _trtllm(manifest)
    found = find_release(release) if release else None
    image = None if found is None else found.image if server == "triton" else found.release_image
    if image is None:
        raise UsageError(
            f"no container of TensorRT-LLM {release} is known for {server}; give --image where you have one"
        )
    return image


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
