"""Opens a checkpoint, whatever it lies in: a directory, a hub id, or a .gguf file.

It decides only which kind it is; nothing that exists on disk is ever asked of the hub.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from builders.sources.base import Source, SourceKind
from tpforge.errors import EnvironmentUnusable, InputRefused, UsageError
from tpforge.outputs.places import known_names
from tpforge.outputs.recognized import instead

_HUB_ID = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(@(?P<revision>[\w./-]+))?", re.ASCII)

__all__ = ["Located", "Source", "locate", "open_source"]


@dataclass(frozen=True)
class Located:
    """A checkpoint on this machine: its kind, what the user gave, and the directory or file."""

    kind: SourceKind
    location: str
    path: Path


def open_source(location: str, *, revision: str | None = None) -> Source:
    """Open `location`: a directory, a .gguf file, or ``org/name[@revision]`` of the Hugging Face hub.

    The header of every weight file is read and checked; no weights are.

    Raises:
        InputRefused: it does not exist, is incomplete, or is not supported.
        UsageError: a revision of something that is not on the hub, or two of them.
        EnvironmentUnusable: the hub cannot be reached, or there is no permission to read it.
    """
    try:
        return _open(locate(location, revision=revision))
    except PermissionError as error:
        raise EnvironmentUnusable(f"{error.filename or location}: no permission to read it") from error


def locate(location: str, *, revision: str | None = None) -> Located:
    """Where `location` lies; a model of the hub is downloaded.

    Raises:
        InputRefused: it is nothing of the three.
        UsageError: a revision of something that is not on the hub, or two of them.
        EnvironmentUnusable: the hub cannot be reached.
    """
    path = Path(location).expanduser()
    if os.path.lexists(path) and revision:
        raise UsageError(f"{location}: is on this machine; a revision can be given for hub ids only")
    if path.is_dir():
        return Located("huggingface", location, path)
    if path.exists():
        if path.suffix != ".gguf":
            raise InputRefused(
                f"{location}:{instead(path) or ' is a file;'} expected a Hugging Face directory (with "
                "config.json and *.safetensors), a .gguf file, or org/name[@revision] of the hub"
            )
        return Located("gguf", location, path)
    match = _HUB_ID.fullmatch(location)
    if match is None or location.endswith((".gguf", ".safetensors")):
        if location in known_names():
            raise InputRefused(
                f"{location}: is an engine; expected a model. `tpforge engines show {location}` shows it"
            )
        raise InputRefused(
            f"{location}: no such file or directory; expected a Hugging Face directory (with config.json "
            "and *.safetensors), a .gguf file, or org/name[@revision] of the hub; short names of models are "
            "for `tpforge plan` and `tpforge gpus` alone"
        )
    from builders.sources.hub import download

    found = match["revision"]
    if found and revision and found != revision:
        raise UsageError(f"{location}: names revision {found}, but --revision says {revision}; give one")
    return Located("hub", location, download(match["repo"], revision=found or revision))


def _open(located: Located) -> Source:
    if located.kind == "gguf":
        from builders.sources.gguf import open_gguf

        return open_gguf(located.path, location=located.location)
    from builders.sources.huggingface import open_directory

    return open_directory(located.path, location=located.location, kind=located.kind)
