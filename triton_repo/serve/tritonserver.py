"""Finds a tritonserver and says how to run it: its backends, its libraries, its environment, its command.

It starts nothing. `interpreter` checks the Python that the models will run in.
"""

from __future__ import annotations

import math
import os
import resource
import shlex
import shutil
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tpforge.errors import EnvironmentUnusable
from tpforge.extras import install_command
from tpforge.outputs.atomic import os_errors
from triton_repo.serve.ports import Ports
from triton_repo.serve.processes import MARK_VARIABLE
from triton_repo.serve.security import Security

DRAIN_S = 30.0
"""For so long requests in flight may go on when a server is told to end; new ones are refused at once."""
_STUB = "triton_python_backend_stub"
_LEAST_FILES = 256
"""Open at a time: an idle tritonserver 2.51 has 69, and each connection of a client one more."""


@dataclass(frozen=True)
class TritonServer:
    """A tritonserver on this machine.

    The wheel of nvidia-pytriton carries `libraries` that only the server may load, and a stub a Python
    version in `stubs`; another installation has neither, and its own backends beside it.
    """

    binary: Path
    origin: str
    backends: Path | None = None
    stubs: Path | None = None
    libraries: Path | None = None

    @property
    def is_wheel(self) -> bool:
        """Whether it is the one of nvidia-pytriton."""
        return self.stubs is not None


def find_tritonserver(given: Path | None = None) -> TritonServer:
    """The given binary, else the one on PATH, else the one in nvidia-pytriton's wheel.

    Raises:
        EnvironmentUnusable: the given one is no program, or there is none at all.
    """
    if given is not None:
        if not (given.is_file() and os.access(given, os.X_OK)):
            raise EnvironmentUnusable(f"{given}: is not a program; --tritonserver wants the server's binary")
        return _describe(given.resolve(), origin=str(given))
    if on_path := shutil.which("tritonserver"):
        return _describe(Path(on_path).resolve(), origin="PATH")
    if wheel := _wheel_binary():
        return _describe(wheel, origin="nvidia-pytriton")
    raise EnvironmentUnusable(
        "no tritonserver: not on PATH, and nvidia-pytriton is not installed beside "
        f"{sys.executable}; run `{install_command('server')}`, or give --tritonserver FILE"
    )


def prepare_backends(server: TritonServer, folder: Path) -> Path | None:
    """Make a backend directory of links in `folder`, with the stub of the running Python.

    None for a server that has its backends, and its Python, in its own place.

    Raises:
        EnvironmentUnusable: the wheel has no stub for this Python, or `folder` cannot be written.
    """
    if server.stubs is None or server.backends is None:
        return None
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server.stubs / version / _STUB
    if not stub.is_file():
        known = ", ".join(sorted((entry.name for entry in server.stubs.iterdir()), key=_as_numbers))
        raise EnvironmentUnusable(
            f"{server.binary}: has no Python backend stub for Python {version}, only for {known}; "
            "run tpforge with one of these"
        )
    with os_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        for backend in sorted(server.backends.iterdir()):
            (folder / backend.name).mkdir(parents=True)
            for file in backend.iterdir():
                if file.name != "__pycache__":
                    (folder / backend.name / file.name).symlink_to(file.resolve())
        (folder / "python" / _STUB).unlink(missing_ok=True)
        (folder / "python" / _STUB).symlink_to(stub)
    return folder


def make_room_for_files() -> None:
    """Let this process and what it starts have enough files open, where that is allowed.

    Raises:
        EnvironmentUnusable: the limit that only root may raise is too low; Triton would end without a word.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < _LEAST_FILES:
        raise EnvironmentUnusable(
            f"only {hard} files may be open here (`ulimit -n`), expected {_LEAST_FILES} or more for a "
            "server; raise the limit"
        )
    if soft != resource.RLIM_INFINITY and soft < _LEAST_FILES:
        resource.setrlimit(resource.RLIMIT_NOFILE, (_LEAST_FILES, hard))


def plain_path(path: Path, *, beside: Path, name: str) -> Path:
    """A path that Triton can hand to its shell without quotes, as it does with those of its models.

    It is `path` itself, or a link of that name in the folder `beside`, relative to it: the server runs there.

    Raises:
        EnvironmentUnusable: the link cannot be made.
    """
    link = beside / name
    with os_errors(link):
        link.unlink(missing_ok=True)
        if shlex.quote(str(path)) == str(path):
            return path
        link.symlink_to(path)
    return Path(name)


def server_environment(server: TritonServer, *, mark: str, temporary: Path) -> dict[str, str]:
    """The environment of the server and its models: this Python first on PATH, its libraries, the mark."""
    environment = dict(os.environ)
    environment[MARK_VARIABLE] = mark
    # Whatever its processes leave there when they are killed goes with the folder.
    environment["TMPDIR"] = str(temporary)
    if server.is_wheel:
        # The stub takes the first python3 on PATH; a virtual environment's, not what it links to.
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    if server.libraries is not None:
        # For the server only: with these, other programs of the system break.
        inherited = [path for path in [os.environ.get("LD_LIBRARY_PATH")] if path]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join([str(server.libraries), *inherited])
    return environment


def server_command(
    server: TritonServer,
    *,
    repository: Path,
    backends: Path | None,
    host: str,
    ports: Ports,
    mark: str,
    security: Security | None = None,
    drain_s: float = DRAIN_S,
) -> list[str]:
    """The command line that serves `repository`; the server's id and its shared memory carry the mark."""
    chosen = security or Security()
    http_host = chosen.http_host(host)
    command = [
        str(server.binary),
        f"--model-repository={repository}",
        f"--id={mark}",
        f"--http-address={http_host}",
        f"--http-port={ports.http}",
        f"--grpc-address={host}",
        f"--grpc-port={ports.grpc}",
        f"--metrics-address={http_host}",
        f"--metrics-port={ports.metrics}",
        f"--backend-config=python,shm-region-prefix-name={mark}_",
        # Without it, Triton starts every Python model once more, only to ask for its config.
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={math.ceil(drain_s)}",
        *chosen.arguments(),
    ]
    if backends is not None:
        command.append(f"--backend-directory={backends}")
    return command


def _wheel_binary() -> Path | None:
    # Found, not imported: its Python dependencies are not installed.
    spec = find_spec("pytriton")
    if spec is None or not spec.submodule_search_locations:
        return None
    binary = Path(next(iter(spec.submodule_search_locations))) / "tritonserver" / "bin" / "tritonserver"
    return binary if binary.is_file() else None


def _describe(binary: Path, *, origin: str) -> TritonServer:
    root = binary.parent.parent
    stubs = root / "python_backend_stubs"
    if not stubs.is_dir():
        return TritonServer(binary=binary, origin=origin)
    libraries = root.parent.parent / "nvidia_pytriton.libs"
    return TritonServer(
        binary=binary,
        origin=origin,
        backends=root / "backends",
        stubs=stubs,
        libraries=libraries if libraries.is_dir() else None,
    )


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
