"""A Hugging Face directory as a source: config.json, safetensors, tokenizer.

It downloads nothing and runs nothing of the checkpoint: ``auto_map`` and pickles are never touched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from builders.families.common.base import Family
from builders.sources.directory import Directory, examine
from builders.sources.tokenizer_files import copy_tokenizer, find_tokenizer_files
from builders.sources.weight_files import Weights
from tpforge.closing import Closing
from tpforge.dtypes import DType
from tpforge.errors import InputRefused
from tpforge.model import ModelSpec

if TYPE_CHECKING:
    import torch

    from builders.sources.quantized.reading import QuantizedWeights

_HUB_SNAPSHOT = re.compile(r"[0-9a-f]{40}")
_LICENSE = re.compile(r"^license:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)


@dataclass(frozen=True)
class HuggingFaceSource(Closing):
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
    directory: Directory
    quantized: QuantizedWeights | None = None

    def read(self, name: str) -> torch.Tensor:
        """One tensor, as a view of the mapped file; of a quantized matrix the values it stands for."""
        return self.directory.read(name)

    @property
    def is_renamed(self) -> bool:
        """Whether tensors are read under names that transformers does not find in the files by itself."""
        return not self.directory.has_own_names

    def write_tokenizer(self, out: Path) -> None:
        """Copy the tokenizer files."""
        copy_tokenizer(self.path, out)

    def close(self) -> None:
        """Release the mapped files."""
        self.weights.close()


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
    found = examine(path)
    try:
        found.refuse()
    except InputRefused:
        found.weights.close()
        raise
    assert found.spec is not None and found.family is not None, "a directory without problems is known"
    weights = found.weights
    quantized = () if found.quantization is None else (f"quantized weights: {found.quantization.title}",)
    index = (weights.index_file,) if weights.index_file else ()
    inputs = {path / "config.json", *index, *weights.paths, *find_tokenizer_files(path)}
    return HuggingFaceSource(
        kind=kind,
        location=location,
        path=path,
        revision=snapshot_commit(path),
        license=declared_license(path / "README.md"),
        spec=found.spec,
        family=found.family,
        shapes=found.shapes,
        dtypes=found.dtypes,
        input_files=tuple(sorted(inputs)),
        notes=(*quantized, *found.remarks, *(f"read nevertheless: {one}" for one in found.renamed)),
        weights=weights,
        names_in_files=found.names,
        directory=found,
        quantized=None if found.quantized is None else found.quantized.renamed(found.names),
    )


def snapshot_commit(path: Path) -> str | None:
    """The commit in a hub cache's ``snapshots/<commit>`` path."""
    resolved = path.absolute()
    is_snapshot = resolved.parent.name == "snapshots" and _HUB_SNAPSHOT.fullmatch(resolved.name)
    return resolved.name if is_snapshot else None


def declared_license(readme: Path) -> str | None:
    """The `license` of a model card's front matter."""
    if not readme.is_file():
        return None
    parts = readme.read_text(encoding="utf-8", errors="replace").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    match = _LICENSE.search(parts[1])
    return match[1] if match else None
