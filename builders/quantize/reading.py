"""The quantized matrices of a checkpoint under the names that unquantized ones have.

It tells which files' tensors belong to a matrix, and reads them as `Components`. Tables, audits and plans see
a matrix X.weight of [out, in]; what lies beside it is not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from builders.quantize.layouts import Layout
from builders.sources.safetensors_reader import TensorEntry
from tpforge.errors import InputRefused

if TYPE_CHECKING:
    import torch

    from builders.quantize.components import Components


@dataclass(frozen=True)
class QuantizedWeights:
    """The quantized matrices of a checkpoint; `shapes` by the name of the matrix, [out, in].

    `belonging` are the tensors of the files that they are made of; `names` their names in the files, where
    those are others.
    """

    layout: Layout
    shapes: dict[str, tuple[int, ...]]
    belonging: frozenset[str]
    tensor: Callable[[str], torch.Tensor]
    names: Mapping[str, str] = field(default_factory=dict)

    def renamed(self, names: Mapping[str, str]) -> QuantizedWeights:
        """The same matrices under other names: `names` gives for each the name here."""
        shapes = {name: self.shapes[one] for name, one in names.items() if one in self.shapes}
        return replace(self, shapes=shapes, names={name: names[name] for name in shapes})

    def components(self, name: str) -> Components:
        """The matrix `name`, which must be one of `shapes`.

        Raises:
            InputRefused: the groups of its inputs are not in order.
        """
        module = self.names.get(name, name).removesuffix(".weight")
        self._check_order(module, inputs=self.shapes[name][1])
        return self.layout.components(self.tensor, module)

    def _check_order(self, module: str, *, inputs: int) -> None:
        if f"{module}.g_idx" not in self.belonging:
            return
        order = self.tensor(f"{module}.g_idx")
        if order.tolist() != [index // self.layout.group for index in range(inputs)]:
            raise InputRefused(
                f"{module}.g_idx: its groups are not in order (desc_act), so that they cannot be cut; "
                "give a checkpoint made with desc_act=false"
            )


def find_quantized(
    layout: Layout, entries: Mapping[str, TensorEntry], *, tensor: Callable[[str], torch.Tensor]
) -> tuple[QuantizedWeights, list[str]]:
    """The matrices of a layout among the tensors of a checkpoint, and what is missing of them."""
    shapes: dict[str, tuple[int, ...]] = {}
    belonging: set[str] = set()
    problems: list[str] = []
    for name, entry in entries.items():
        module, dot, suffix = name.rpartition(".")
        marks = layout.beside[0] if layout.weight == "weight" else layout.weight
        if suffix != marks or not dot:
            continue
        needed = [f"{module}.{one}" for one in (layout.weight, *layout.beside)]
        missing = [one for one in needed if one not in entries]
        problems += [f"{one}: missing; {name} needs it" for one in missing]
        if missing:
            continue
        entry = entries[f"{module}.{layout.weight}"]
        if len(entry.shape) != 2:
            problems.append(f"{module}.{layout.weight}: found shape {list(entry.shape)}, expected a matrix")
            continue
        shapes[f"{module}.weight"] = tuple(layout.shape(entry.shape))
        belonging.update(needed)
        optional = [f"{module}.{one}" for one in layout.optional]
        belonging.update(one for one in optional if one in entries)
    if not shapes and not problems:
        problems.append(f"found no tensor *.{layout.weight} that is quantized, as its configuration declares")
    return QuantizedWeights(layout, shapes, frozenset(belonging), tensor), problems
