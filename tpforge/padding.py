"""How attention heads and the MLP are padded so that any tp_size divides them, exactly.

It computes layouts; it does not touch tensors. A padded head has zero rows in q, k and v and meets
zero columns in the output projection, so the model's function is unchanged; the same holds for MLP
columns, since the gated activation of zeros is zero.
"""

from __future__ import annotations

from tpforge.errors import PlanError
from tpforge.model import ModelSpec
from tpforge.records import Record


class HeadLayout(Record):
    """Where every head of the padded model comes from.

    `num_heads` and `num_kv_heads` are the padded counts, which the checkpoint's config.json states.
    `query_heads[i]` is the source head of padded query head i, or None for a zero head; `kv_heads`
    likewise. Query head i attends with KV head i // (num_heads / num_kv_heads).
    """

    query_heads: tuple[int | None, ...]
    kv_heads: tuple[int | None, ...]

    @property
    def num_heads(self) -> int:
        """Query heads after padding."""
        return len(self.query_heads)

    @property
    def num_kv_heads(self) -> int:
        """KV heads after padding, before any duplication over ranks."""
        return len(self.kv_heads)

    def rank_query_heads(self, tp_rank: int, *, tp_size: int) -> tuple[int | None, ...]:
        """The source heads of the query heads on a rank."""
        per_rank = self.num_heads // tp_size
        return self.query_heads[tp_rank * per_rank : (tp_rank + 1) * per_rank]

    def rank_kv_heads(self, tp_rank: int, *, tp_size: int) -> tuple[int | None, ...]:
        """The source heads of the KV heads on a rank; duplicated consecutively when tp_size exceeds them.

        Source: TensorRT-LLM 1.2, models/modeling_utils.py and convert_utils.py (dup_kv_weight).
        """
        if tp_size > self.num_kv_heads:
            return (self.kv_heads[tp_rank * self.num_kv_heads // tp_size],)
        per_rank = self.num_kv_heads // tp_size
        return self.kv_heads[tp_rank * per_rank : (tp_rank + 1) * per_rank]


class Padding(Record):
    """The padding of a model for one tp_size; `notes` say in words what was added."""

    heads: HeadLayout
    intermediate_size: int
    notes: tuple[str, ...] = ()


def plan_padding(model: ModelSpec, *, tp_size: int, allow: bool = True) -> Padding:
    """The smallest exact padding of `model` for `tp_size`; without notes when none is needed.

    KV heads are split when tp_size divides them and duplicated when they divide tp_size. Else they are
    padded with zero heads up to a multiple of tp_size. Each KV head's group of query heads is padded to
    one size, so that a rank holds exactly the query heads of its KV heads.

    Raises:
        PlanError: tp_size exceeds the query heads or the MLP width, or padding is needed and not allowed.
    """
    attention = model.attention
    if tp_size > attention.num_heads:
        raise PlanError(
            f"tp={tp_size} is more than the {attention.num_heads} attention heads of "
            f"{model.architecture}: a rank would hold none; use tp={attention.num_heads} or less"
        )
    heads = _layout(attention.num_heads, attention.num_kv_heads, tp_size=tp_size)
    intermediate_size = -(-model.mlp.intermediate_size // tp_size) * tp_size
    notes = []
    if heads.num_heads != attention.num_heads or heads.num_kv_heads != attention.num_kv_heads:
        notes.append(
            f"attention heads {attention.num_heads}/{attention.num_kv_heads} KV padded with zero heads "
            f"to {heads.num_heads}/{heads.num_kv_heads} for tp={tp_size}"
        )
    if intermediate_size != model.mlp.intermediate_size:
        notes.append(
            f"MLP intermediate size {model.mlp.intermediate_size} padded with zeros "
            f"to {intermediate_size} for tp={tp_size}"
        )
    if notes and not allow:
        fitting = ", ".join(str(size) for size in _sizes_without_padding(model))
        raise PlanError(
            f"tp={tp_size} does not divide {model.architecture} without padding "
            f"({'; '.join(notes)}); use tp={fitting}, or --pad"
        )
    return Padding(heads=heads, intermediate_size=intermediate_size, notes=tuple(notes))


def _sizes_without_padding(model: ModelSpec) -> list[int]:
    sizes = []
    for tp_size in range(1, min(model.attention.num_heads, 64) + 1):
        if not plan_padding(model, tp_size=tp_size).notes:
            sizes.append(tp_size)
    return sizes


def _layout(num_heads: int, num_kv_heads: int, *, tp_size: int) -> HeadLayout:
    if num_heads % num_kv_heads:
        raise PlanError(
            f"{num_heads} attention heads are not a multiple of {num_kv_heads} KV heads: "
            "the config is not of a grouped-query model"
        )
    group = num_heads // num_kv_heads
    candidates = [
        _candidate(group, num_kv_heads, padded_kv, tp_size=tp_size)
        for padded_kv in range(num_kv_heads, -(-num_kv_heads // tp_size) * tp_size + 1)
        if padded_kv % tp_size == 0 or tp_size % padded_kv == 0
    ]
    return min(candidates, key=lambda layout: (layout.num_heads, layout.num_kv_heads))


def _candidate(group: int, num_kv_heads: int, padded_kv: int, *, tp_size: int) -> HeadLayout:
    """The layout with `padded_kv` KV heads; a group shared by several ranks is padded to divide evenly."""
    ranks_per_kv_head = max(1, tp_size // padded_kv)
    padded_group = -(-group // ranks_per_kv_head) * ranks_per_kv_head
    kv_heads = [head if head < num_kv_heads else None for head in range(padded_kv)]
    query_heads: list[int | None] = []
    for kv_head in kv_heads:
        for member in range(padded_group):
            real = kv_head is not None and member < group
            query_heads.append(kv_head * group + member if real and kv_head is not None else None)
    return HeadLayout(query_heads=tuple(query_heads), kv_heads=tuple(kv_heads))
