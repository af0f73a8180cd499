"""Proves that a folder holds the engine it should, byte by byte, or ends with exit status 6.

Usage: prove.py FOLDER SHA256, which is the hash over the paths and hashes that engine.json lists. It needs
Python alone, and looks at nothing that engine.json does not list.
"""

import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def sha256_of(path: Path) -> str:
    """The hash of a file, or why there is none."""
    found = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                found.update(block)
    except OSError as error:
        return f"{error.strerror}"
    return found.hexdigest()


def problems(folder: Path, expected: str) -> list[str]:
    """All that is wrong with the engine in a folder."""
    try:
        listed = json.loads((folder / "engine.json").read_text(encoding="utf-8"))["files"]
        files = sorted((file["path"], file["sha256"]) for file in listed)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return [f"engine.json: cannot be read: {error!r}"]
    found = hashlib.sha256(json.dumps(files).encode()).hexdigest()
    if found != expected:
        return [f"engine.json: lists the files of another engine: {found}, expected {expected}"]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        hashes = list(pool.map(lambda file: sha256_of(folder / file[0]), files))
    return [
        f"{path}: found {got}, expected {sha256}"
        for (path, sha256), got in zip(files, hashes, strict=True)
        if got != sha256
    ]


if __name__ == "__main__":
    wrong = problems(Path(sys.argv[1]), sys.argv[2])
    for line in wrong:
        print(f"prove: {sys.argv[1]}: {line}", file=sys.stderr)
    sys.exit(6 if wrong else 0)
