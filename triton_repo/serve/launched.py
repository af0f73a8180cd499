"""A launch of TensorRT-LLM as a supervisor keeps it: the command, its name for itself, its container.

Killing docker's client leaves the container running: it is found by the mark of its supervisor, which is its
label, and removed by its id. A name may be another's: of a server of another folder, user or machine that
talks to the same daemon.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from pydantic import Field

from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.records import Record
from tpforge.system.opener import read_url
from triton_repo.serve.processes import MARK_VARIABLE, REGIONS

LABEL = "tpforge.server"
_REMOVE_TIMEOUT_S = 60.0


class ContainerName(Record):
    """A container by the program that runs it, docker or podman, and its name there."""

    engine: Literal["docker", "podman"]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")


class LaunchedProgram(Record):
    """Words to run, what the environment needs beside its own, and the id that the server answers with.

    `shared_memory` is how the names of its regions on this host start; a container has its own. `model` is
    the name of the model of a server with an `api` of its own, such as trtllm-serve; None is a Triton.
    `counts_steps` says whether that server's statistics tell of its iterations.
    """

    words: tuple[str, ...]
    environment: dict[str, str]
    server_id: str
    container: ContainerName | None = None
    shared_memory: str | None = Field(default=None, pattern=REGIONS)
    model: str | None = None
    api: Literal["openai", "trtllm-grpc"] = "openai"
    counts_steps: bool = False

    @property
    def program(self) -> str:
        """What is started: docker, podman, mpirun, or tritonserver."""
        return Path(self.words[0]).name

    def command(self, mark: str) -> list[str]:
        """The words, with the program's full path, and the mark as the label of a container.

        Raises:
            EnvironmentUnusable: it is not on PATH.
        """
        found = shutil.which(self.words[0])
        if found is None:
            raise EnvironmentUnusable(
                f"{self.words[0]}: not found on PATH; install it, or change --container"
            )
        if self.container is None:
            return [found, *self.words[1:]]
        assert self.words[1] == "run", "a container is started by `run`"
        return [found, "run", "--label", f"{LABEL}={mark}", *self.words[2:]]

    def marked_environment(self, mark: str) -> dict[str, str]:
        """The whole environment of the program, the mark of its supervisor included."""
        return {**os.environ, **self.environment, MARK_VARIABLE: mark}


def remove_container(container: ContainerName, *, mark: str) -> None:
    """Kill and remove the containers of a supervisor's mark; none is no error.

    Raises:
        EnvironmentUnusable: they cannot be listed or removed.
    """
    listed = _run(container, "ps", "--all", "--quiet", "--no-trunc", "--filter", f"label={LABEL}={mark}")
    if listed.returncode:
        raise EnvironmentUnusable(_by_hand(container, listed.stderr.strip()))
    for identity in listed.stdout.split():
        done = _run(container, "rm", "--force", identity)
        # A container that --rm is removing at this moment is as good as gone.
        gone = ("no such container", "no container with", "already in progress")
        if done.returncode and not any(text in done.stderr.lower() for text in gone):
            raise EnvironmentUnusable(_by_hand(container, done.stderr.strip()))


def _run(container: ContainerName, *words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            [container.engine, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_REMOVE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentUnusable(_by_hand(container, str(error))) from error


def _by_hand(container: ContainerName, cause: str) -> str:
    return (
        f"container {container.name}: {cause}; remove it with: "
        f"{shlex.join([container.engine, 'rm', '--force', container.name])}"
    )


def generate_one(url: str, *, deadline_s: float) -> None:
    """Have the `llmapi` contract's tensorrt_llm generate one token, over HTTP.

    Raises:
        InputRefused: it did not.
    """
    body = json.dumps({"text_input": "Hello", "sampling_param_max_tokens": 1}).encode()
    place, kind = f"{url}/v2/models/tensorrt_llm/generate", {"Content-Type": "application/json"}
    try:
        value = json.loads(read_url(place, timeout_s=deadline_s, method="POST", body=body, headers=kind))
    except (OSError, ValueError) as error:
        raise InputRefused(str(error)) from error
    if "text_output" not in value:
        raise InputRefused(f"no text_output in {value}")
