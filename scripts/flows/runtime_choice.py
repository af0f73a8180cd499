"""`--runtime auto` on this host: looks at it, and writes the choice into what is built.

It prints nothing and changes nothing; `engines.runtime_choice` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.host import Host, container_problem, find_host
from engines.runtime_choice import RuntimeChoice, choose_runtime

AUTO = "auto"


def choose_here(trtllm: str | None = None, *, host: Host | None = None) -> RuntimeChoice:
    """What `auto` means here.

    Raises:
        EnvironmentUnusable: a release was asked for, and TensorRT-LLM cannot run here.
        UsageError: there is no such release.
    """
    found = host or find_host()
    engines = [name for name, _ in found.programs if name in ("docker", "podman")] if found.gpus else []
    silent = {name: problem for name in engines if (problem := container_problem(name))}
    return choose_runtime(found, trtllm=trtllm, silent=silent)


def with_choice(values: Mapping[str, Any], choice: RuntimeChoice) -> dict[str, Any]:
    """The values of a recipe, or of `build`'s options, with the choice in place of auto."""
    chosen = {**values, "runtime": choice.runtime, "runtime_because": choice.line}
    if choice.trtllm is not None:
        chosen["trtllm"] = choice.trtllm
    return chosen
