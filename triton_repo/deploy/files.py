"""Files that more than one target brings: the canary, the script that prepares, the monitoring.

It writes nothing; a target's files are texts by their path.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from triton_repo.deploy.deployment import CONFIG, HOME, LLM_YAML, STORE, Deployment
from triton_repo.deploy.engine_url import DRIVERS

TEMPLATES = Path(__file__).parent / "templates"
CANARY_TIMEOUT_S = 30
COUNTED_S, UNCOUNTED_S = 15, 60
"""For one look at a model that tells of its steps, and at one where a token has to come."""
ALIVE_EVERY_S = 10
ALIVE_FAILURES = 3
"""Looks that have to fail, one after the other, until a server is restarted."""


def template(path: str, **values: Any) -> str:
    """A template with its values; one that is not given is an error."""
    return _environment().get_template(path).render(values)


def checksum(texts: Mapping[str, str], *, engine_sha256: str = "") -> str:
    """Changes when a container that mounts these texts, and this engine, has to be started again.

    A target puts it where its orchestrator compares containers: neither Kubernetes nor Compose looks into
    what is mounted.
    """
    named = json.dumps([sorted(texts.items()), engine_sha256])
    return hashlib.sha256(named.encode()).hexdigest()


def config(deployment: Deployment) -> dict[str, str]:
    """The scripts that every container of an engine mounts, by name, and what trtllm-serve is told."""
    name = canary_name(deployment)
    found = {name: canary(name), "launch.py": launch(), "prepare.sh": prepare(deployment)}
    return found | ({LLM_YAML: deployment.llm_yaml} if deployment.server == "trtllm-serve" else {})


def canary_name(deployment: Deployment) -> str:
    """The script that speaks the server's protocol."""
    return "canary.py" if deployment.server == "triton" else "canary_openai.py"


def canary(name: str = "canary.py") -> str:
    """The script that asks whether the server serves, or makes progress; Triton, but for another name."""
    return (TEMPLATES / "common" / name).read_text(encoding="utf-8")


def launch() -> str:
    """The script that starts ranks, and ends them in order."""
    return (TEMPLATES / "common" / "launch.py").read_text(encoding="utf-8")


def canary_words(
    deployment: Deployment, *, folder: PurePosixPath = CONFIG, timeout_s: int = CANARY_TIMEOUT_S
) -> list[str]:
    """The canary's command in the container: would a request be served in time?"""
    return [
        *("python3", str(folder / canary_name(deployment))),
        *("--url", f"http://127.0.0.1:{deployment.ports.http}"),
        *("--model", deployment.canary_model, "--timeout", str(timeout_s)),
    ]


def alive_timeout_s(deployment: Deployment) -> int:
    """How long the model may stand still before one look at it fails."""
    counts = deployment.runtime != "pytorch" or (
        deployment.server == "trtllm-serve" and deployment.tells_load
    )
    return COUNTED_S if counts else UNCOUNTED_S


def alive_words(deployment: Deployment, *, folder: PurePosixPath = CONFIG) -> list[str]:
    """The command that fails only when the model makes no progress, however many requests wait."""
    timeout_s = alive_timeout_s(deployment)
    words = [*canary_words(deployment, folder=folder, timeout_s=timeout_s), "--alive"]
    if deployment.server == "trtllm-serve":
        return words
    return [*words, "--metrics", f"http://127.0.0.1:{deployment.ports.metrics}/metrics"]


def prepare(deployment: Deployment) -> str:
    """The script that brings and proves the engine, and renders its repository where Triton serves it.

    From an http(s) URL it is pulled with the header Authorization when AUTHORIZATION is in the environment.
    """
    options = deployment.options
    words = [f"--digest={options.digest}"] if options.digest else []
    return template(
        "common/prepare.sh.j2",
        engine=shlex.quote(str(deployment.engine_in_store)),
        home=str(HOME),
        engine_url=shlex.quote(options.engine_url) if options.engine_url else None,
        proven=shlex.quote(str((STORE if options.engine_url else HOME) / f".proven-{deployment.engine_key}")),
        pull_options=" ".join(map(shlex.quote, words)),
        by_http=(options.engine_url or "").startswith(("http://", "https://")),
        is_rendered=deployment.server == "triton",
    )


def dockerfile(deployment: Deployment) -> str:
    """The Dockerfile of the image with tpforge, Triton on the CPU, and what pulls from the engine's URL."""
    text = (TEMPLATES / "image" / "Dockerfile").read_text(encoding="utf-8")
    scheme = (deployment.options.engine_url or "").partition("://")[0]
    driver = DRIVERS.get(scheme)
    if driver is None:
        return text
    before, line, after = text.partition("RUN useradd")
    assert line, "the driver is installed before the user is made"
    return (
        f"{before}# For {scheme}://, the driver of that very fsspec.\n"
        f"RUN .venv/bin/python -m pip install {driver} "
        f"\"fsspec==$(.venv/bin/python -c 'import fsspec; print(fsspec.__version__)')\"\n{line}{after}"
    )


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
