"""The experts of a layer in one tensor, as transformers 5 holds and may save them, seen as one tensor each.

gate_up_proj is [experts, 2 x width, hidden], the gate's rows first; down_proj is [experts, hidden, width].
It reads nothing itself.
Source: transformers 5, conversion_mapping.py, models/mixtral and models/qwen3_moe.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builders.sources.safetensors_reader import TensorEntry

if TYPE_CHECKING:
    import torch

_FUSED = re.compile(r"(?P<mlp>.*\.mlp\.)experts\.(?P<name>gate_up_proj|down_proj)")
_MIXTRAL = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


@dataclass(frozen=True)
class ExpertPart:
    """One matrix of one expert: rows [first, first + num_rows) of `expert` of the tensor `given`."""

    given: str
    expert: int
    first: int
    num_rows: int
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """[rows, columns]."""
        return self.num_rows, self.columns

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The matrix, as a view."""
        return tensor[self.expert, self.first : self.first + self.num_rows]


def split_experts(
    entries: Mapping[str, TensorEntry], *, is_mixtral: bool
) -> tuple[dict[str, ExpertPart], dict[str, str]]:
    """The matrices of fused experts by the names that single ones have, and routers under their old name."""
    parts: dict[str, ExpertPart] = {}
    routers: dict[str, str] = {}
    for given, entry in entries.items():
        match = _FUSED.fullmatch(given)
        if match is None or len(entry.shape) != 3:
            continue
        for name, part in _matrices(given, match["name"], entry.shape):
            parts[_named(match["mlp"], part.expert, name, is_mixtral=is_mixtral)] = part
        router = match["mlp"] + "gate.weight"
        if is_mixtral and router in entries:
            routers[_mixtral(match["mlp"]) + "gate.weight"] = router
    return parts, routers


def _matrices(given: str, name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, ExpertPart]]:
    num_experts, rows, columns = shape
    for expert in range(num_experts):
        if name == "down_proj":
            yield "down_proj", ExpertPart(given, expert, 0, rows, columns)
        else:
            yield "gate_proj", ExpertPart(given, expert, 0, rows // 2, columns)
            yield "up_proj", ExpertPart(given, expert, rows // 2, rows - rows // 2, columns)


def _named(mlp: str, expert: int, name: str, *, is_mixtral: bool) -> str:
    if is_mixtral:
        return f"{_mixtral(mlp)}experts.{expert}.{_MIXTRAL[name]}.weight"
    return f"{mlp}experts.{expert}.{name}.weight"


def _mixtral(mlp: str) -> str:
    return mlp.removesuffix("mlp.") + "block_sparse_moe."
