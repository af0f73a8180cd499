"""Decides which weight files make up a Hugging Face directory, and opens them as one set of tensors.

It never unpickles, and never follows an index out of the directory. Nothing that is wrong is raised: it is
collected, so that all of it can be said at once.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from builders.sources.base import each_problem
from builders.sources.json_files import read_json_object
from builders.sources.other_layouts import other_layout
from builders.sources.safetensors_reader import SafetensorsFile, TensorEntry
from tpforge.errors import InputRefused

if TYPE_CHECKING:
    import torch

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Weights:
    """All tensors of a directory, each in exactly one file, and every `problem` in the way of that.

    `is_whole` says that the header of every file could be read, so that a tensor not found is missing.
    """

    def __init__(self, folder: Path) -> None:
        """Open the weight files of `folder` and compare them with the index; no weights are read."""
        self.problems: list[str] = []
        self.index_file = folder / INDEX if (folder / INDEX).is_file() else None
        weight_map = self._collect(_read_index, folder) if self.index_file else None
        names = self._collect(_file_names, folder, weight_map, self.index_file is not None) or []
        self.paths = tuple(folder / name for name in names if (folder / name).is_file())
        self._files: dict[str, SafetensorsFile] = {}
        self._holder: dict[str, str] = {}
        for name in names:
            if not (folder / name).is_file():
                self.problems.append(f"{folder / name}: missing, but {INDEX} names it")
            elif (file := self._collect(SafetensorsFile, folder / name)) is not None:
                self._files[name] = file
        self._place()
        self._compare(weight_map)
        self.is_whole = bool(names) and len(self._files) == len(names)

    @cached_property
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

    def _collect(self, read: Any, *arguments: Any) -> Any:
        """What `read` gives; None when it raised, and then its problems are kept."""
        try:
            return read(*arguments)
        except InputRefused as error:
            self.problems += each_problem(error)
            return None

    def _place(self) -> None:
        for file_name, file in self._files.items():
            self.problems += [f"{file.path}: {problem}" for problem in file.problems]
            for tensor in file.entries:
                if tensor in self._holder:
                    self.problems.append(f"{tensor}: in {self._holder[tensor]} and in {file_name}")
                self._holder.setdefault(tensor, file_name)

    def _compare(self, weight_map: dict[str, str] | None) -> None:
        """The index must name every tensor, in the file that holds it."""
        if weight_map is None:
            return
        for tensor, file_name in self._holder.items():
            if tensor not in weight_map:
                self.problems.append(f"{tensor}: in {file_name}, but not in the index")
            elif weight_map[tensor] != file_name and tensor not in self._held(weight_map[tensor]):
                self.problems.append(f"{tensor}: in {file_name}, the index says {weight_map[tensor]}")
        for tensor, file_name in weight_map.items():
            if tensor not in self._holder and file_name in self._files:
                self.problems.append(f"{tensor}: not in {file_name}, where the index says it is")

    def _held(self, file_name: str) -> dict[str, TensorEntry]:
        """The tensors of a file; one that is in two files is said to be so, and that is enough."""
        file = self._files.get(file_name)
        return {} if file is None else file.entries


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


def _file_names(folder: Path, weight_map: dict[str, str] | None, has_index: bool) -> list[str]:
    single = (folder / SINGLE).is_file()
    if weight_map is None:
        if single and not has_index:
            return [SINGLE]
        if has_index:
            # The index is broken, which is said already: its files are still looked at, as far as they go.
            return sorted(path.name for path in folder.glob("*.safetensors") if path.is_file())
        raise _no_weights(folder)
    if single and SINGLE not in weight_map.values():
        raise InputRefused(f"{folder}: found both {SINGLE} and {INDEX}, which does not name it; remove one")
    return sorted(set(weight_map.values()))


def _no_weights(folder: Path) -> InputRefused:
    known = other_layout(folder)
    if known is not None:
        return InputRefused(known)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
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
            "one file must be named so, and several need the index that was saved with them"
        )
    return InputRefused(f"{folder}: found no weights; expected {SINGLE}, or {INDEX} and the files it names")
