"""Decides which weight files make up a Hugging Face directory, and opens them as one set of tensors.

It never unpickles, and never follows an index out of the directory.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from builders.sources.json_files import read_json_object
from builders.sources.safetensors_reader import SafetensorsFile, TensorEntry
from tpforge.errors import InputRefused

if TYPE_CHECKING:
    import torch

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Weights:
    """All tensors of a directory, each in exactly one file."""

    def __init__(self, folder: Path) -> None:
        """Open the weight files of `folder` and check that they agree with the index.

        Raises:
            InputRefused: none there, files or tensors missing, a tensor in two files, a broken file.
        """
        self.index_file = folder / INDEX if (folder / INDEX).is_file() else None
        weight_map = _read_index(folder) if self.index_file else None
        names = _file_names(folder, weight_map)
        self.paths = tuple(folder / name for name in names)
        self._files: dict[str, SafetensorsFile] = {}
        self._holder: dict[str, str] = {}
        try:
            for name in names:
                self._files[name] = SafetensorsFile(folder / name)
            self._index(folder, weight_map)
        except InputRefused:
            self.close()
            raise

    @property
    def entries(self) -> dict[str, TensorEntry]:
        """Every tensor with its type and shape, in the order of the files."""
        return {name: self._files[file].entries[name] for name, file in self._holder.items()}

    def read(self, name: str) -> torch.Tensor:
        """One tensor, as a view of its file."""
        return self._files[self._holder[name]].read(name)

    def close(self) -> None:
        """Unmap all files."""
        for file in self._files.values():
            file.close()

    def _index(self, folder: Path, weight_map: dict[str, str] | None) -> None:
        problems = []
        for file_name, file in self._files.items():
            for tensor in file.entries:
                if tensor in self._holder:
                    problems.append(f"{tensor}: in {self._holder[tensor]} and in {file_name}")
                elif weight_map is not None and weight_map.get(tensor, file_name) != file_name:
                    problems.append(f"{tensor}: in {file_name}, the index says {weight_map[tensor]}")
                elif weight_map is not None and tensor not in weight_map:
                    problems.append(f"{tensor}: in {file_name}, but not in the index")
                self._holder.setdefault(tensor, file_name)
        for tensor in sorted(set(weight_map or {}) - set(self._holder)):
            problems.append(f"{tensor}: not in {(weight_map or {})[tensor]}, where the index says it is")
        if problems:
            raise InputRefused.listing(f"{folder}: the weight files do not agree:", problems)


def _read_index(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    weight_map: Any = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputRefused(f"{path}: found no weight_map; expected an object of tensor names and files")
    names = sorted({str(name) for name in weight_map.values()})
    problems = [f"{name}: points outside the directory" for name in names if _leaves_folder(name)]
    problems += [f"{name}: not a .safetensors file" for name in names if not name.endswith(".safetensors")]
    if problems:
        raise InputRefused.listing(f"{path}: names files that will not be read:", problems)
    return {str(tensor): str(name) for tensor, name in weight_map.items()}


def _leaves_folder(name: str) -> bool:
    """By its name; a symbolic link to a blob, as the hub's cache has, is fine."""
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name


def _file_names(folder: Path, weight_map: dict[str, str] | None) -> list[str]:
    single = (folder / SINGLE).is_file()
    if weight_map is None:
        if single:
            return [SINGLE]
        raise _no_weights(folder)
    if single and SINGLE not in weight_map.values():
        raise InputRefused(f"{folder}: found both {SINGLE} and {INDEX}, which does not name it; remove one")
    names = sorted(set(weight_map.values()))
    missing = [f"{name}: missing" for name in names if not (folder / name).is_file()]
    if missing:
        raise InputRefused.listing(f"{folder}: files that {INDEX} names are not there:", missing)
    return names


def _no_weights(folder: Path) -> InputRefused:
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        return InputRefused(
            f"{folder}: found only pickled weights ({', '.join(pickles[:3])}), which can run code and are "
            "never opened; convert them to safetensors where you trust them: load the model with "
            "transformers and call save_pretrained"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    if others:
        return InputRefused(
            f"{folder}: found {', '.join(others[:3])}, but neither {SINGLE} nor {INDEX}; "
            "download the directory again"
        )
    return InputRefused(f"{folder}: found no weights; expected {SINGLE}, or {INDEX} and the files it names")
