"""The optional parts of an installation: what each is for, whether it is there, which command brings it.

It installs nothing. What a part consists of is read from the installed metadata: pyproject.toml says it once.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from tpforge._origin import is_checkout
from tpforge.errors import EnvironmentUnusable

EXTRAS = {
    "chat": "chat templates, as transformers renders them",
    "convert": "converting, proving and running engines with torch",
    "eval": "the tasks of lm-eval",
    "gpu": "what the GPUs of this host are, and what they do",
    "server": "the Triton server on this host",
    "tensorrt-llm": "TensorRT-LLM itself, on a GPU host",
}
"""Every extra of the program with what it is for; `dev` is for those who develop it."""

_BROUGHT_BY = {
    "accelerate": "convert",
    "lm_eval": "eval",
    "pynvml": "gpu",
    "pytriton": "server",
    "safetensors": "convert",
    "sentencepiece": "convert",
    "tensorrt_llm": "tensorrt-llm",
    "torch": "convert",
    "transformers": "chat",
}
"""The smallest extra that brings a module."""

_MODULES = {
    "chat": ("transformers",),
    "convert": ("torch", "transformers", "safetensors"),
    "eval": ("lm_eval",),
    "gpu": ("pynvml",),
    "server": ("pytriton",),
    "tensorrt-llm": ("tensorrt_llm",),
}
"""The modules that are there when an extra is."""


def extra_of(module: str) -> str | None:
    """The extra that brings a module, None when none does."""
    return _BROUGHT_BY.get(module.partition(".")[0])


def has_extra(extra: str) -> bool:
    """Whether the modules of an extra can be found; none is imported."""
    return all(find_spec(module) is not None for module in _MODULES[extra])


def require_extra(extra: str, *, needed_by: str) -> None:
    """Raise unless an extra is installed: before anything is fetched or written that would be for nothing.

    Raises:
        EnvironmentUnusable: it is not; the message has the command that brings it.
    """
    if not has_extra(extra):
        raise EnvironmentUnusable(missing_extra(extra, needed_by=needed_by))


def missing_extra(extra: str, *, needed_by: str) -> str:
    """One line: what is missing, what it is for, the command that brings it."""
    return (
        f"{needed_by} needs the extra `{extra}` ({EXTRAS[extra]}), which is not installed; "
        f"install it with: {install_command(extra)}"
    )


def install_command(extra: str) -> str:
    """The command that adds an extra to this very installation, whatever made it."""
    if is_checkout() and extra in ("chat", "convert", "server"):
        return "make setup"
    return install_packages(_requirements(extra) or [f"tpforge[{extra}]"])


def install_packages(requirements: Sequence[str], *, prefix: Path | None = None) -> str:
    """The command that adds packages beside tpforge: of pipx, of uv, or of pip, as what made `prefix`."""
    prefix = prefix or Path(sys.prefix)
    names = shlex.join(requirements)
    if (prefix / "pipx_metadata.json").is_file():
        return f"pipx inject {shlex.quote(prefix.name)} {names}"
    if (prefix / "uv-receipt.toml").is_file():
        return f"uv pip install --python {shlex.quote(str(prefix))} {names}"
    return f"{shlex.quote(sys.executable)} -m pip install {names}"


def _requirements(extra: str) -> list[str]:
    """What the installed metadata lists for an extra; empty when there is no metadata."""
    from importlib.metadata import PackageNotFoundError, requires  # Slow to import, and seldom needed.

    try:
        lines = requires("tpforge") or []
    except PackageNotFoundError:
        return []
    split = [line.partition(";") for line in lines]
    ours = (f'extra == "{extra}"', f"extra == '{extra}'")
    return [name.strip() for name, _, marker in split if marker.strip() in ours]
