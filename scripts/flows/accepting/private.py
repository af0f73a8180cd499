"""What a record that is sent to others leaves out: folders, names and numbers of whoever ran it.

It reads nothing but names; `scripts.flows.accept` puts every text through it.
"""

from __future__ import annotations

import getpass
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_COMMON_USERS = ("root", "user", "admin", "ubuntu")
"""Names that say nothing of a person, and are words of other texts."""
_UUID = re.compile(r"\b(GPU|MIG)-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")


@dataclass(frozen=True)
class Private:
    """Folders, and names that stand as whole words, each with what is written instead."""

    folders: Mapping[str, str]
    names: Mapping[str, str]

    def without(self, text: str) -> str:
        """The text without any of it."""
        for folder, instead in sorted(self.folders.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(folder, instead)
        for name, instead in sorted(self.names.items(), key=lambda pair: -len(pair[0])):
            text = re.sub(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", instead, text)
        return _UUID.sub(r"\1-UUID", text)


def private_of(work: Path, *, model: Path | None) -> Private:
    """What this user, host and folder are called; `model` is the user's own, whose folder is left out too."""
    folders = {str(work.resolve()): "WORK", str(work): "WORK", str(Path.home()): "HOME"}
    if model is not None:
        folders[str(model.resolve().parent)] = "MODELS"
    node = platform.node()
    names = {node: "HOST", node.split(".")[0]: "HOST"}
    user = _user()
    if user not in _COMMON_USERS:
        names[user] = "USER"
    return Private(
        {folder: instead for folder, instead in folders.items() if len(folder) > 1},
        {name: instead for name, instead in names.items() if len(name) > 1},
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # A user of a container without a name.
        return ""
