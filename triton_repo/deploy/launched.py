"""A launch of TensorRT-LLM as a supervisor keeps it: the command, its name for itself, its container.

Killing docker's client leaves the container running: that is removed by its name.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path

from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.records import Record
from triton_repo.deploy.processes import MARK_VARIABLE

_REMOVE_TIMEOUT_S = 60.0


class ContainerName(Record):
    """A container by the program that runs it, docker or podman, and its name there."""

    engine: str
    name: str


class LaunchedProgram(Record):
    """Words to run, what the environment needs beside its own, and the id that the server answers with."""

    words: tuple[str, ...]
    environment: dict[str, str]
    server_id: str
    container: ContainerName | None = None

    @property
    def program(self) -> str:
        """What is started: docker, podman, mpirun, or tritonserver."""
        return Path(self.words[0]).name

    def command(self) -> list[str]:
        """The words, with the program's full path.

        Raises:
            EnvironmentUnusable: it is not on PATH.
        """
        found = shutil.which(self.words[0])
        if found is None:
            raise EnvironmentUnusable(
                f"{self.words[0]}: not found on PATH; install it, or change --container"
            )
        return [found, *self.words[1:]]

    def marked_environment(self, mark: str) -> dict[str, str]:
        """The whole environment of the program, the mark of its supervisor included."""
        return {**os.environ, **self.environment, MARK_VARIABLE: mark}


def remove_container(container: ContainerName) -> None:
    """Kill and remove a container; none of that name is no error.

    Raises:
        EnvironmentUnusable: it cannot be removed.
    """
    by_hand = f"remove it with: {container.engine} rm --force {container.name}"
    words = [container.engine, "rm", "--force", container.name]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_REMOVE_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentUnusable(f"container {container.name}: {error}; {by_hand}") from error
    # A container that --rm is removing at this moment is as good as gone.
    gone = ("no such container", "no container with name", "already in progress")
    if done.returncode and not any(text in done.stderr.lower() for text in gone):
        raise EnvironmentUnusable(f"container {container.name}: {done.stderr.strip()}; {by_hand}")


def generate_one(url: str, *, deadline_s: float) -> None:
    """Have the `llmapi` contract's tensorrt_llm generate one token, over HTTP.

    Raises:
        InputRefused: it did not.
    """
    body = json.dumps({"text_input": "Hello", "sampling_param_max_tokens": 1}).encode()
    request = urllib.request.Request(
        f"{url}/v2/models/tensorrt_llm/generate", data=body, headers={"Content-Type": "application/json"}
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=deadline_s) as answer:
            value = json.loads(answer.read())
    except (OSError, ValueError) as error:
        raise InputRefused(str(error)) from error
    if "text_output" not in value:
        raise InputRefused(f"no text_output in {value}")
