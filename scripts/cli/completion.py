"""What a shell offers after `tpforge COMMAND`: engines, models, GPUs, formats, releases, each by its table.

A parameter is known by its name, so that the same word is completed alike in every command.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem

VARIABLE = "_TPFORGE_COMPLETE"
"""What the script of `tpforge completion` sets when it asks."""
_OF_A_SERVER = ("bench", "generate", "smoke")
"""Commands whose --model names a model on a server, and no checkpoint."""


def add_completion(command: click.Command) -> click.Command:
    """The command, its parameters completing themselves where a table has their values."""
    for one in [command, *(command.commands.values() if isinstance(command, click.Group) else ())]:
        for parameter in one.params:
            names = _NAMES.get(parameter.name or "")
            if names is not None and not (command.name in _OF_A_SERVER and parameter.name == "model"):
                setattr(parameter, "shell_complete", _completing(names, parameter))  # noqa: B010
    return command


def _completing(
    names: Callable[[], Iterable[str]], parameter: click.Parameter
) -> Callable[[click.Context, str], list[CompletionItem]]:
    plain = parameter.type.shell_complete
    takes_path = parameter.name in ("engine", "engines", "model", "source")

    def complete(context: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [CompletionItem(name) for name in names() if name.startswith(incomplete)]
        if found:
            return found
        return (
            [CompletionItem(incomplete, type="file")] if takes_path else plain(context, parameter, incomplete)
        )

    return complete


def _engines() -> Iterable[str]:
    from tpforge.outputs.places import OUT

    return sorted(path.parent.parent.name for path in OUT.glob("*/engine/engine.json"))


def _models() -> Iterable[str]:
    from tpforge.plan.models.known import known_models

    return ["demo", *(model.name for model in known_models())]


def _gpus() -> Iterable[str]:
    from tpforge.plan.hardware.gpus import gpus

    return ["host", *(gpu.name for gpu in gpus())]


def _formats() -> Iterable[str]:
    from tpforge.quantization import formats

    return [row.name for row in formats()]


def _releases() -> Iterable[str]:
    from tpforge.trtllm.versions import releases

    return [release.trtllm for release in releases()]


_NAMES: dict[str, Callable[[], Iterable[str]]] = {
    "engine": _engines,
    "engines": _engines,
    "source": _engines,
    "model": _models,
    "gpu": _gpus,
    "quantize": _formats,
    "format_name": _formats,
    "formats": _formats,
    "trtllm": _releases,
    "version": _releases,
}
