"""Opens a checkpoint, whatever it lies in: a directory, a hub id, or a .gguf file.

It decides only which kind it is; nothing that exists on disk is ever asked of the hub.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from builders.sources.base import Source
from tpforge.errors import EnvironmentUnusable, InputRefused, UsageError

_HUB_ID = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)

__all__ = ["Source", "open_source"]


def open_source(location: str, *, revision: str | None = None) -> Source:
    """Open `location`: a directory, a .gguf file, or ``org/name[@revision]`` of the Hugging Face hub.

    The header of every weight file is read and checked; no weights are.

    Raises:
        InputRefused: it does not exist, is incomplete, or is not supported.
        UsageError: a revision of something that is not on the hub, or two of them.
        EnvironmentUnusable: the hub cannot be reached, or there is no permission to read it.
    """
    try:
        return _open(location, revision=revision)
    except PermissionError as error:
        raise EnvironmentUnusable(f"{error.filename or location}: no permission to read it") from error


def _open(location: str, *, revision: str | None) -> Source:
    path = Path(location).expanduser()
    if os.path.lexists(path) and revision:
        raise UsageError(f"{location}: is on this machine; a revision can be given for hub ids only")
    if path.is_dir():
        from builders.sources.huggingface import open_directory

        return open_directory(path, location=location)
    if path.exists():
        if path.suffix != ".gguf":
            raise InputRefused(
                f"{location}: is a file; expected a Hugging Face directory (with config.json and "
                "*.safetensors), a .gguf file, or org/name[@revision] of the hub"
            )
        from builders.sources.gguf import open_gguf

        return open_gguf(path, location=location)
    match = _HUB_ID.fullmatch(location)
    if match is None or location.endswith((".gguf", ".safetensors")):
        raise InputRefused(
            f"{location}: no such file or directory; expected a Hugging Face directory (with config.json "
            "and *.safetensors), a .gguf file, or org/name[@revision] of the hub"
        )
    from builders.sources.hub import open_hub

    found = match["revision"]
    if found and revision and found != revision:
        raise UsageError(f"{location}: names revision {found}, but --revision says {revision}; give one")
    return open_hub(match["repo"], location=location, revision=found or revision)
