"""A Hugging Face directory as a source: config.json, safetensors, tokenizer.

It downloads nothing and runs nothing of the checkpoint: `auto_map` and pickles are never touched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from builders.families.base import Family
from builders.families.reading import ConfigReader
from builders.families.registry import find_family
from builders.sources.base import refuse_lfs_pointer
from builders.sources.json_files import read_json_object
from builders.sources.tokenizer_files import copy_tokenizer, find_tokenizer_files
from builders.sources.weight_files import Weights
from tpforge.dtypes import DType, parse_dtype
from tpforge.errors import InputRefused
from tpforge.model import ModelSpec

if TYPE_CHECKING:
    import torch

_FLOATS = {dtype.safetensors for dtype in DType}
_HUB_SNAPSHOT = re.compile(r"[0-9a-f]{40}")
_LICENSE = re.compile(r"^license:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)


@dataclass(frozen=True)
class HuggingFaceSource:
    """An open directory; see `builders.sources.base.Source`."""

    kind: Literal["huggingface", "hub"]
    location: str
    path: Path
    revision: str | None
    license: str | None
    spec: ModelSpec
    family: Family
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, DType]
    input_files: tuple[Path, ...]
    notes: tuple[str, ...]
    weights: Weights
    names_in_files: dict[str, str]

    def read(self, name: str) -> torch.Tensor:
        """One tensor, as a view of the mapped file."""
        return self.weights.read(self.names_in_files[name])

    def write_tokenizer(self, out: Path) -> None:
        """Copy the tokenizer files."""
        copy_tokenizer(self.path, out)

    def close(self) -> None:
        """Release the mapped files."""
        self.weights.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def open_directory(
    path: Path,
    *,
    location: str,
    kind: Literal["huggingface", "hub"] = "huggingface",
) -> HuggingFaceSource:
    """Open a Hugging Face directory.

    The revision is the commit in the path of a hub cache, else unknown.

    Raises:
        InputRefused: it is not a whole checkpoint of a known family.
    """
    config_file = path / "config.json"
    if not config_file.is_file():
        raise InputRefused(
            f"{path}: found no config.json; expected a Hugging Face directory with config.json, "
            "*.safetensors and a tokenizer"
        )
    config = read_json_object(config_file)
    family = find_family(config.get("architectures"), where=str(config_file))
    for file in find_tokenizer_files(path):
        with file.open("rb") as opened:
            refuse_lfs_pointer(file, opened.read(64))
    generation_file = path / "generation_config.json"
    weights = Weights(path)
    names = family.canonical(weights.entries)
    entries = {name: weights.entries[given] for name, given in names.items()}
    dtypes = {name: parse_dtype(entry.dtype) for name, entry in entries.items() if entry.dtype in _FLOATS}
    try:
        reader = ConfigReader(
            config,
            where=str(config_file),
            weight_dtype=most_common_dtype(dtypes),
            generation=read_json_object(generation_file) if generation_file.is_file() else None,
        )
        spec = family.read_model(reader)
    except InputRefused:
        weights.close()
        raise
    index = (weights.index_file,) if weights.index_file else ()
    return HuggingFaceSource(
        kind=kind,
        location=location,
        path=path,
        revision=_snapshot_commit(path),
        license=_declared_license(path / "README.md"),
        spec=spec,
        family=family,
        shapes={name: entry.shape for name, entry in entries.items()},
        dtypes=dtypes,
        input_files=tuple(sorted({config_file, *index, *weights.paths, *find_tokenizer_files(path)})),
        notes=(),
        weights=weights,
        names_in_files=names,
    )


def most_common_dtype(dtypes: dict[str, DType]) -> DType:
    """The type of most tensors; float32 when there are none."""
    found = list(dtypes.values())
    return max(sorted(set(found)), key=found.count) if found else DType.FLOAT32


def _snapshot_commit(path: Path) -> str | None:
    """The commit in a hub cache's ``snapshots/<commit>`` path."""
    resolved = path.absolute()
    is_snapshot = resolved.parent.name == "snapshots" and _HUB_SNAPSHOT.fullmatch(resolved.name)
    return resolved.name if is_snapshot else None


def _declared_license(readme: Path) -> str | None:
    """The `license` of a model card's front matter."""
    if not readme.is_file():
        return None
    parts = readme.read_text(encoding="utf-8", errors="replace").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    match = _LICENSE.search(parts[1])
    return match[1] if match else None
