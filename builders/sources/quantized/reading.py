"""The quantized matrices of a checkpoint under the names that unquantized ones have.

It tells which files' tensors belong to a matrix, and reads them as `Components`. Tables, audits and plans see
a matrix X.weight of [out, in]; what lies beside it is not seen.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from builders.sources.quantized.companions import ONE, companion_problems
from builders.sources.quantized.layout import Layout
from builders.sources.safetensors_reader import TensorEntry
from tpforge.errors import InputRefused

if TYPE_CHECKING:
    import torch

    from builders.sources.quantized.components import Components

_KV_SCALES = (".k_proj.k_scale", ".v_proj.v_scale")


@dataclass(frozen=True)
class QuantizedWeights:
    """The quantized matrices of a checkpoint; `shapes` by the name of the matrix, [out, in].

    `belonging` are the tensors of the files that they are made of; `names` their names in the files, where
    those are others. `kv_names` are the scales of keys and values by layer, where the KV cache is quantized.
    """

    layout: Layout
    shapes: dict[str, tuple[int, ...]]
    belonging: frozenset[str]
    tensor: Callable[[str], torch.Tensor]
    names: Mapping[str, str] = field(default_factory=dict)
    kv_names: Mapping[int, tuple[str, ...]] = field(default_factory=dict)

    def kv_steps(self, num_layers: int) -> tuple[float, ...]:
        """The step of each layer's KV cache: the larger of its two scales, 1 where it has none.

        Raises:
            InputRefused: a scale is no positive number.
        Source: TensorRT-LLM 1.x, models/model_weights_loader.py; layers/attention.py, Attention.postprocess.
        """
        if self.layout.kv_cache is None:
            return ()
        return tuple(
            max((self._scale(name) for name in self.kv_names.get(layer, ())), default=1.0)
            for layer in range(num_layers)
        )

    def _scale(self, name: str) -> float:
        values = self.tensor(name).float().flatten().tolist()
        if len(values) != 1 or not _is_scale(values[0]):
            raise InputRefused(f"{name}: found {values[:4]}, expected one positive number")
        return float(values[0])

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
    marks = next(iter(layout.beside)) if layout.weight == "weight" else layout.weight
    shapes: dict[str, tuple[int, ...]] = {}
    belonging: set[str] = set()
    problems: list[str] = []
    for name in entries:
        module, dot, suffix = name.rpartition(".")
        if suffix != marks or not dot:
            continue
        needed = [f"{module}.{one}" for one in (layout.weight, *layout.beside)]
        shape, found = _matrix(layout, module, entries, needed=needed, marked_by=name)
        problems += found
        if shape is None:
            continue
        problems += _uneven(layout, module, entries, tensor=tensor)
        problems += _no_scales(layout, module, entries, tensor=tensor)
        shapes[f"{module}.weight"] = shape
        optional = [f"{module}.{one}" for one in layout.optional]
        belonging.update(needed, (one for one in optional if one in entries))
    kv_names = _kv_names(entries) if layout.kv_cache is not None else {}
    problems += _unpaired(kv_names)
    belonging.update(name for names in kv_names.values() for name in names)
    if not shapes and not problems:
        problems.append(f"found no tensor *.{layout.weight} that is quantized, as its configuration declares")
    return QuantizedWeights(layout, shapes, frozenset(belonging), tensor, kv_names=kv_names), problems


def _matrix(
    layout: Layout,
    module: str,
    entries: Mapping[str, TensorEntry],
    *,
    needed: Sequence[str],
    marked_by: str,
) -> tuple[tuple[int, int] | None, list[str]]:
    """[out, in] of a module's matrix, None where it cannot be known, and what is wrong with its tensors."""
    if missing := [one for one in needed if one not in entries]:
        return None, [f"{one}: missing; {marked_by} needs it" for one in missing]
    name = f"{module}.{layout.weight}"
    entry = entries[name]
    if len(entry.shape) != 2:
        return None, [f"{name}: found shape {list(entry.shape)}, expected a matrix"]
    rows, columns = layout.shape(entry.shape)
    problems = []
    if entry.dtype not in layout.packed:
        problems.append(f"{name}: found type {entry.dtype}, expected {' or '.join(layout.packed)}")
    beside = {**layout.beside, **layout.optional}
    problems += companion_problems(module, entries, beside, shape=(rows, columns), group=layout.group)
    return (rows, columns), problems


def _unpaired(kv_names: Mapping[int, tuple[str, ...]]) -> list[str]:
    return [
        f"{names[0]}: has no counterpart; keys and values need one scale each"
        for names in kv_names.values()
        if len(names) != len(_KV_SCALES)
    ]


def _uneven(
    layout: Layout,
    module: str,
    entries: Mapping[str, TensorEntry],
    *,
    tensor: Callable[[str], torch.Tensor],
) -> list[str]:
    """Zero points of a symmetric matrix that are off by one: those of GPTQ's other version; reads a row."""
    from builders.sources.quantized.gptq import nibbles

    name = f"{module}.qzeros"
    if layout.even_zero is None or entries[name].dtype != "I32" or 0 in entries[name].shape:
        return []
    found = set(nibbles(tensor(name)[:1], dim=1).flatten().tolist())
    if len(found) != 1 or abs(found.copy().pop() - layout.even_zero) != 1:
        return []
    other = "gptq_v2" if layout.even_zero == 7 else "gptq"
    return [
        f"{name}: found zero points stored as {found.pop()}, expected {layout.even_zero} of symmetric "
        f"matrices; they are those of checkpoint_format {other}, which is not the declared one"
    ]


def _no_scales(
    layout: Layout,
    module: str,
    entries: Mapping[str, TensorEntry],
    *,
    tensor: Callable[[str], torch.Tensor],
) -> Iterator[str]:
    """Scales of a whole matrix that are no positive numbers; reads them, which are one number each.

    A matrix that is joined with others is divided by the largest of their scales.
    """
    for suffix, one in {**layout.beside, **layout.optional}.items():
        name = f"{module}.{suffix}"
        if one is not ONE or name not in entries or math.prod(entries[name].shape) != 1:
            continue
        if entries[name].dtype in one.dtypes and not _is_scale(value := float(tensor(name))):
            yield f"{name}: found {value}, expected one positive number"


def _is_scale(value: float) -> bool:
    return 0 < value < math.inf


def _kv_names(entries: Iterable[str]) -> dict[int, tuple[str, ...]]:
    """The scales of keys and values, by the number of their layer."""
    found: dict[int, list[str]] = {}
    for name in entries:
        layer = re.search(r"\.(\d+)\.", name)
        if name.endswith(_KV_SCALES) and layer is not None:
            found.setdefault(int(layer[1]), []).append(name)
    return {layer: tuple(sorted(names)) for layer, names in found.items()}
