"""Finds links by which a checkpoint's folder would have files of elsewhere copied into an engine.

Weights may lie elsewhere: they are read as tensors only, and never copied as they are unless they are that.
It opens no file.
"""

from __future__ import annotations

from pathlib import Path

WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth")


def outside_link_problems(folder: Path) -> list[str]:
    """A line for each file but weights that is a link out of `folder`.

    The hub cache's own links are no such: from snapshots/REVISION to the blobs beside it.
    """
    root = folder.resolve()
    allowed = [root]
    if root.parent.name == "snapshots":
        allowed.append(root.parent.parent / "blobs")
    return [
        f"{path}: is a link out of the checkpoint, to a file that would be copied into the engine; only "
        "weights may be links: put the file itself there if it belongs to the model"
        for path in sorted(root.rglob("*"))
        if path.is_symlink()
        and path.suffix not in WEIGHTS
        and path.is_file()
        and not any(path.resolve().is_relative_to(place) for place in allowed)
    ]
