"""The processes of Dynamo before Triton servers: the front of each protocol, and a worker a server.

They find each other through a folder, and listen on this machine alone but for the front's port. It starts
nothing: `triton_repo.serve.companions` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tpforge.recipe import RouterMode
from triton_repo.openai.settings import WorkerSettings
from triton_repo.serve.companions import Companion, Proof
from triton_repo.serve.guard import module_environment
from triton_repo.serve.ports import NamedPort

LOOPBACK = "127.0.0.1"
WORKER_LOG, SETTINGS_FILE = "worker.log", "worker.json"
_MIGRATIONS = 3
"""How often a request goes on with another worker when its own is lost."""
_WORKER_DRAIN_S = 30.0


@dataclass(frozen=True)
class FrontPlace:
    """Where the front listens: with a certificate by TLS, with `client_roots` for clients that have one too.

    `discovery` is the folder through which fronts and workers find each other. `shown_host` is how clients on
    this machine reach it.
    """

    host: str
    shown_host: str
    openai_port: int
    discovery: Path
    kserve_port: int | None = None
    router: RouterMode = "round-robin"
    certificate: Path | None = None
    private_key: Path | None = None
    client_roots: Path | None = None

    @property
    def scheme(self) -> str:
        """Of the OpenAI front's address."""
        return "http" if self.certificate is None else "https"


def openai_front(
    place: FrontPlace, *, python: Path, log: Path, model: str, is_provable: bool = True
) -> Companion:
    """The front of OpenAI's API, proven by one token of the model."""
    files = {
        "--tls-cert-path": place.certificate,
        "--tls-key-path": place.private_key,
        "--tls-client-ca-cert-path": place.client_roots,
    }
    tls = [word for option, path in files.items() if path is not None for word in (option, str(path))]
    base = f"{place.scheme}://{place.shown_host}:{place.openai_port}"
    proof = Proof(
        url=f"{base}/v1/completions",
        body={"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0},
        roots=place.certificate,
    )
    return Companion(
        name="openai",
        words=(
            *_front_words(python, place),
            "--http-host",
            place.host,
            "--http-port",
            str(place.openai_port),
            *tls,
        ),
        environment=_environment(place.discovery),
        log=log,
        ports=(NamedPort(name="OpenAI", port=place.openai_port, host=place.host, option="--openai-port"),),
        proof=proof if is_provable else None,
        address=f"{base}/v1",
    )


def kserve_front(place: FrontPlace, *, python: Path, log: Path) -> Companion:
    """The front of KServe's gRPC, for clients of Triton; its own metrics are on the next port.

    Of Dynamo 1.6.1 it listens on all addresses of the machine, whatever --http-host says, without TLS.
    """
    assert place.kserve_port is not None
    port, metrics = place.kserve_port, place.kserve_port + 1
    return Companion(
        name="kserve",
        words=(
            *_front_words(python, place),
            "--kserve-grpc-server",
            *("--http-host", place.host, "--http-port", str(port), "--grpc-metrics-port", str(metrics)),
        ),
        environment=_environment(place.discovery),
        log=log,
        ports=(
            NamedPort(name="KServe", port=port, host="0.0.0.0", option="--kserve-port"),
            NamedPort(name="metrics of KServe", port=metrics, host="0.0.0.0", option="--kserve-port"),
        ),
        address=f"{place.shown_host}:{port}",
    )


def worker(settings_file: Path, *, python: Path, log: Path, discovery: Path) -> Companion:
    """The worker of one server; without that server it is ended, so that the front asks the others."""
    return Companion(
        name="worker",
        words=(str(python), "-P", "-m", "triton_repo.openai.worker", str(settings_file)),
        environment={**_environment(discovery), "PYTHONPATH": module_environment()["PYTHONPATH"]},
        log=log,
        follows=True,
        drain_s=_WORKER_DRAIN_S,
    )


def write_settings(settings: WorkerSettings, path: Path) -> Path:
    """Write what a worker is told."""
    path.write_text(settings.to_json(), encoding="utf-8")
    return path


def _front_words(python: Path, place: FrontPlace) -> tuple[str, ...]:
    events = (
        ("--no-router-kv-events",) if place.router == "kv" else ()
    )  # Triton tells no front what it caches.
    return (
        *(str(python), "-P", "-m", "dynamo.frontend", "--discovery-backend", "file"),
        *("--request-plane", "tcp", "--event-plane", "zmq", "--namespace", "tpforge"),
        *("--router-mode", place.router, *events, "--migration-limit", str(_MIGRATIONS)),
    )


def _environment(discovery: Path) -> dict[str, str]:
    """Nothing is fetched, no port is open to other machines, and requests are not logged."""
    return {
        "DYN_FILE_KV": str(discovery),
        "DYN_TCP_RPC_HOST": LOOPBACK,
        "DYN_TCP_RESPONSE_STREAM_HOST": LOOPBACK,
        "DYN_EVENT_PLANE_HOST": LOOPBACK,
        "DYN_SELF_HOST_METADATA": "0",
        "DYN_SDK_DISABLE_ANSI_LOGGING": "1",
        "DYN_LOG": "warn",
        "HF_HUB_OFFLINE": "1",
        "XDG_CACHE_HOME": str(discovery.with_name("cache")),
        "PYTHONPATH": "",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
