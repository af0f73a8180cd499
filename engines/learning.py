"""Asks an installed TensorRT-LLM what it is and takes: by a Python that has it, or in a release's container.

It keeps nothing: `tpforge.trtllm.learned` does.
"""

from __future__ import annotations

import json
import os
from importlib.resources import files
from typing import Any

from tpforge.errors import InputRefused
from tpforge.system.programs import run_lines
from tpforge.trtllm.learned import Learned, learned_from
from tpforge.trtllm.probe import MARK

_QUIET = {"TRTLLM_NO_USAGE_STATS": "1", "PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1"}
"""No report of usage, no files written, nothing downloaded."""


def learn_by_python(python: str) -> Learned:
    """What the Python at that path has installed.

    Raises:
        EnvironmentUnusable: it cannot be started, or has no TensorRT-LLM.
        InputRefused: it has one whose arguments cannot be told.
    """
    return _learn([python, "-c", _source()], where="python", env={**os.environ, **_QUIET})


def learn_by_container(engine: str, *, image: str, gpus: bool) -> Learned:
    """What a container has installed, started without network; with the host's GPUs where there are some.

    Raises:
        EnvironmentUnusable: docker or podman cannot be started, or the container has no TensorRT-LLM.
        InputRefused: the container does not run, or has one whose arguments cannot be told.
    """
    devices = {"docker": ["--gpus", "all"], "podman": ["--device", "nvidia.com/gpu=all"]}[engine]
    words = [engine, "run", "--rm", "--network", "none", *(devices if gpus else [])]
    for name, value in _QUIET.items():
        words += ["--env", f"{name}={value}"]
    words += ["--entrypoint", "python3", image, "-c", _source()]
    return _learn(words, where=f"{engine} {image}", env=None)


def _learn(words: list[str], *, where: str, env: dict[str, str] | None) -> Learned:
    lines: list[str] = []
    status = run_lines(words, on_line=lines.append, env=env)
    said = [line for line in lines if line.startswith(MARK)]
    if status != 0 or not said:
        last = [line.strip() for line in lines if line.strip()][-3:] or ["it printed nothing"]
        raise InputRefused.listing(f"{where}: ended with status {status} before it told anything:", last)
    return learned_from(_parse(said[-1].removeprefix(MARK), where=where), where=where)


def _parse(text: str, *, where: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InputRefused(f"{where}: what it told of itself is not valid JSON: {error}") from error
    if not isinstance(found, dict):
        raise InputRefused(f"{where}: what it told of itself is not a table")
    return found


def _source() -> str:
    return files("tpforge.trtllm").joinpath("probe.py").read_text(encoding="utf-8")
