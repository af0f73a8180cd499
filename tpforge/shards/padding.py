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
    """The padding of a model for one mapping; `notes` say in words what was added.

    `expert_size` and `shared_size` are the padded widths of one expert and of the shared experts; 0: none.
    """

    heads: HeadLayout
    intermediate_size: int
    expert_size: int = 0
    shared_size: int = 0
    notes: tuple[str, ...] = ()


def plan_padding(
    model: ModelSpec,
    *,
    tp_size: int,
    moe_ep_size: int = 1,
    dense_tp_size: int | None = None,
    allow: bool = True,
) -> Padding:
    """The smallest exact padding of `model`; without notes when none is needed.

    `dense_tp_size` are the ranks that all but the experts are divided over, when these are not tp_size: 1
    where attention is by data parallelism.

    KV heads are split when tp_size divides them and duplicated when they divide tp_size. Else they are
    padded with zero heads up to a multiple of tp_size. Each KV head's group of query heads is padded to
    one size, so that a rank holds exactly the query heads of its KV heads.

    Raises:
        PlanError: tp_size exceeds the query heads, or padding is needed and not allowed or not exact.
    """
    attention = model.attention
    over = tp_size if dense_tp_size is None else dense_tp_size
    if over > attention.num_heads:
        raise PlanError(
            f"tp={over} is more than the {attention.num_heads} attention heads of "
            f"{model.architecture}: a rank would hold none; use tp={attention.num_heads} or less"
        )
    heads = _layout(attention.num_heads, attention.num_kv_heads, tp_size=over)
    expert, shared = _expert_sizes(model)
    padding = Padding(
        heads=heads,
        intermediate_size=_dense_size(model, tp_size=over),
        expert_size=_padded(expert, tp_size // moe_ep_size),
        shared_size=_padded(shared, over),
    )
    notes = (*_head_notes(model, heads, tp_size=tp_size), *_width_notes(model, padding, tp_size=tp_size))
    if heads.num_heads != attention.num_heads and model.position in _POSITIONS_BY_HEAD:
        raise PlanError(
            f"tp={tp_size} does not divide the {attention.num_heads} heads of {model.architecture}, and "
            "they cannot be padded: ALiBi slopes depend on the number of heads; "
            f"use tp={_listed(_sizes_without_padding(model))}"
        )
    if notes and not allow:
        raise PlanError(
            f"tp={tp_size} does not divide {model.architecture} without padding "
            f"({'; '.join(notes)}); use tp={_listed(_sizes_without_padding(model))}, or --pad"
        )
    return padding.model_copy(update={"notes": notes})


_POSITIONS_BY_HEAD = ("alibi", "alibi_with_scale")


def _expert_sizes(model: ModelSpec) -> tuple[int, int]:
    return (0, 0) if model.moe is None else (model.moe.intermediate_size, model.moe.shared_intermediate_size)


def _dense_size(model: ModelSpec, *, tp_size: int) -> int:
    """The padded width of the dense blocks; as it is in a model that has experts in every layer."""
    width = model.mlp.intermediate_size
    has_dense = not all(model.has_experts(layer) for layer in range(model.num_layers))
    return _padded(width, tp_size) if has_dense else width


def _padded(size: int, parts: int) -> int:
    return -(-size // parts) * parts


def _head_notes(model: ModelSpec, heads: HeadLayout, *, tp_size: int) -> tuple[str, ...]:
    attention = model.attention
    if (heads.num_heads, heads.num_kv_heads) == (attention.num_heads, attention.num_kv_heads):
        return ()
    return (
        f"attention heads {attention.num_heads}/{attention.num_kv_heads} KV padded with zero heads "
        f"to {heads.num_heads}/{heads.num_kv_heads} for tp={tp_size}",
    )


def _width_notes(model: ModelSpec, padding: Padding, *, tp_size: int) -> tuple[str, ...]:
    expert, shared = _expert_sizes(model)
    widths = (
        ("MLP", model.mlp.intermediate_size, padding.intermediate_size),
        ("expert", expert, padding.expert_size),
        ("shared expert", shared, padding.shared_size),
    )
    return tuple(
        f"{what} intermediate size {size} padded with zeros to {padded} for tp={tp_size}"
        for what, size, padded in widths
        if size != padded
    )


def _sizes_without_padding(model: ModelSpec) -> list[int]:
    attention = model.attention
    sizes = []
    for tp_size in range(1, min(attention.num_heads, 64) + 1):
        heads = _layout(attention.num_heads, attention.num_kv_heads, tp_size=tp_size)
        same = (heads.num_heads, heads.num_kv_heads) == (attention.num_heads, attention.num_kv_heads)
        dense = _dense_size(model, tp_size=tp_size) == model.mlp.intermediate_size
        if same and dense and not any(width % tp_size for width in _expert_sizes(model)):
            sizes.append(tp_size)
    return sizes


def _listed(sizes: list[int]) -> str:
    return ", ".join(str(size) for size in sizes)


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
