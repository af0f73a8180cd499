"""Which slice of which source tensor goes where on which rank: rules, cuts and spans, no tensors.

A family is a tuple of rules. A rule makes one target tensor by joining parts on dim 0; a part is one
source tensor with a cut; a cut gives, for one rank, the spans of the source along one dim. Anything
that moves data (`builders.convert`) only follows spans.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tpforge.errors import PlanError
from tpforge.mapping import Mapping
from tpforge.model import ModelSpec
from tpforge.padding import Padding


@dataclass(frozen=True)
class Span:
    """`length` consecutive rows (or columns): from the source at `start`, or zeros when it is None."""

    start: int | None
    length: int


class Cut(Enum):
    """How a source tensor is divided over the tp ranks."""

    COPY = "copy"
    """Whole on every rank."""
    QUERY_ROWS = "query rows"
    """Dim 0 by query head."""
    KV_ROWS = "kv rows"
    """Dim 0 by KV head; duplicated when tp exceeds them."""
    QUERY_COLUMNS = "query columns"
    """Dim 1 by query head: the attention output projection."""
    MLP_ROWS = "mlp rows"
    """Dim 0 of the MLP's width."""
    MLP_COLUMNS = "mlp columns"
    """Dim 1 of the MLP's width."""
    VOCAB_ROWS = "vocab rows"
    """Dim 0 of the vocabulary, padded to a multiple of tp with zero rows on the last ranks."""
    HIDDEN_COLUMNS = "hidden columns"
    """Dim 1 of the hidden size."""

    @property
    def dim(self) -> int:
        """The dim that is divided; 0 for COPY."""
        columns = (Cut.QUERY_COLUMNS, Cut.MLP_COLUMNS, Cut.HIDDEN_COLUMNS)
        return 1 if self in columns else 0


class Stage(Enum):
    """Which pipeline stages hold a tensor."""

    FIRST = "first stage"
    LAST = "last stage"
    LAYER = "the stage of the layer"


@dataclass(frozen=True)
class Part:
    """One source tensor of a rule; ``{layer}`` in `source` stands for the global layer index."""

    source: str
    cut: Cut
    transform: str | None = None


@dataclass(frozen=True)
class Rule:
    """One target tensor; ``{layer}`` in `target` stands for the index local to the pipeline stage."""

    target: str
    parts: tuple[Part, ...]
    stage: Stage = Stage.LAYER


@dataclass(frozen=True)
class Slice:
    """One part on one rank: the spans of `source` along `dim`, to be laid one after the other."""

    source: str
    dim: int
    spans: tuple[Span, ...]
    transform: str | None = None

    @property
    def length(self) -> int:
        """Rows (or columns) of the slice, zeros included."""
        return sum(span.length for span in self.spans)


@dataclass(frozen=True)
class RankTensor:
    """One tensor of a rank file: slices joined along dim 0, with the resulting shape."""

    name: str
    slices: tuple[Slice, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ShardPlan:
    """Everything that decides the content of the rank files, except the data."""

    model: ModelSpec
    mapping: Mapping
    padding: Padding
    parallel_embedding_dim: int | None = None


def spans(cut: Cut, size: int, *, plan: ShardPlan, tp_rank: int) -> tuple[Span, ...]:
    """The spans of a source dim of `size` that tp_rank holds.

    Raises:
        PlanError: `size` is not what the model's config says this cut divides.
    """
    tp_size = plan.mapping.tp_size
    if cut is Cut.COPY:
        return (Span(0, size),)
    if cut in (Cut.QUERY_ROWS, Cut.QUERY_COLUMNS):
        heads = plan.padding.heads.rank_query_heads(tp_rank, tp_size=tp_size)
        return _head_spans(heads, size, num_heads=plan.model.attention.num_heads, plan=plan)
    if cut is Cut.KV_ROWS:
        heads = plan.padding.heads.rank_kv_heads(tp_rank, tp_size=tp_size)
        return _head_spans(heads, size, num_heads=plan.model.attention.num_kv_heads, plan=plan)
    if cut in (Cut.MLP_ROWS, Cut.MLP_COLUMNS):
        _expect(size, plan.model.mlp.intermediate_size, what="intermediate_size")
        return _even_spans(size, padded=plan.padding.intermediate_size, parts=tp_size, index=tp_rank)
    if cut is Cut.VOCAB_ROWS:
        _expect(size, plan.model.vocab_size, what="vocab_size")
        padded = -(-size // tp_size) * tp_size
        return _even_spans(size, padded=padded, parts=tp_size, index=tp_rank)
    if size % tp_size:
        raise PlanError(f"hidden size {size} is not a multiple of tp={tp_size}; use --parallel-embedding 0")
    return _even_spans(size, padded=size, parts=tp_size, index=tp_rank)


def _expect(found: int, expected: int, *, what: str) -> None:
    if found != expected:
        raise PlanError(f"found size {found}, but config.json says {what}={expected}")


def _even_spans(size: int, *, padded: int, parts: int, index: int) -> tuple[Span, ...]:
    per_part = padded // parts
    start = min(index * per_part, size)
    stop = min(start + per_part, size)
    return _merge([Span(start, stop - start), Span(None, per_part - (stop - start))])


def _head_spans(
    heads: tuple[int | None, ...], size: int, *, num_heads: int, plan: ShardPlan
) -> tuple[Span, ...]:
    head_size = plan.model.attention.head_size
    _expect(size, num_heads * head_size, what=f"{num_heads} heads x head size {head_size}")
    return _merge([Span(None if head is None else head * head_size, head_size) for head in heads])


def _merge(pieces: list[Span]) -> tuple[Span, ...]:
    """Neighbouring spans joined, empty ones dropped, so that each span is one contiguous copy."""
    merged: list[Span] = []
    for piece in pieces:
        if piece.length == 0:
            continue
        last = merged[-1] if merged else None
        if last is not None and last.start is None and piece.start is None:
            merged[-1] = Span(None, last.length + piece.length)
        elif last is not None and last.start is not None and piece.start == last.start + last.length:
            merged[-1] = Span(last.start, last.length + piece.length)
        else:
            merged.append(piece)
    return tuple(merged)


def rank_tensors(
    rules: tuple[Rule, ...], source_shapes: dict[str, tuple[int, ...]], *, plan: ShardPlan, rank: int
) -> tuple[RankTensor, ...]:
    """The tensors of one rank file in their order, with shapes; nothing is read.

    `source_shapes` gives the shape of every source tensor *after* its transform.

    Raises:
        PlanError: a source tensor is missing or has a shape that the config contradicts; all are listed.
    """
    layers = plan.mapping.layers(rank, num_layers=plan.model.num_layers)
    tensors: list[RankTensor] = []
    problems: list[str] = []
    for rule in rules:
        for local, layer in _places(rule.stage, layers, plan=plan, rank=rank):
            target = rule.target.format(layer=local)
            try:
                tensors.append(_rank_tensor(rule, target, layer, source_shapes, plan=plan, rank=rank))
            except PlanError as error:
                problems.append(str(error))
    if problems:
        raise PlanError.listing("the checkpoint does not hold what its config.json declares:", problems)
    return tuple(tensors)


def _places(stage: Stage, layers: range, *, plan: ShardPlan, rank: int) -> list[tuple[int, int]]:
    """(local, global) layer indices at which a rule applies on `rank`."""
    if stage is Stage.LAYER:
        return list(enumerate(layers))
    if stage is Stage.FIRST:
        return [(0, 0)] if plan.mapping.is_first_stage(rank) else []
    return [(0, 0)] if plan.mapping.is_last_stage(rank) else []


def _rank_tensor(
    rule: Rule,
    target: str,
    layer: int,
    source_shapes: dict[str, tuple[int, ...]],
    *,
    plan: ShardPlan,
    rank: int,
) -> RankTensor:
    slices = []
    shape: list[int] = []
    for part in rule.parts:
        name = part.source.format(layer=layer)
        if name not in source_shapes:
            raise PlanError(f"{name}: missing; {target} is made of it")
        source_shape = source_shapes[name]
        cut_dim = part.cut.dim
        if len(source_shape) <= cut_dim:
            raise PlanError(f"{name}: found shape {list(source_shape)}, expected {cut_dim + 1} dims")
        try:
            held = spans(part.cut, source_shape[cut_dim], plan=plan, tp_rank=plan.mapping.tp_rank(rank))
        except PlanError as error:
            raise PlanError(f"{name}: shape {list(source_shape)}: {error}") from None
        piece = Slice(source=name, dim=cut_dim, spans=held, transform=part.transform)
        slices.append(piece)
        piece_shape = list(source_shape)
        piece_shape[cut_dim] = piece.length
        if shape and piece_shape[1:] != shape[1:]:
            raise PlanError(f"{name}: shape {list(source_shape)} cannot be joined into {target}")
        shape = [shape[0] + piece_shape[0], *shape[1:]] if shape else piece_shape
    return RankTensor(name=target, slices=tuple(slices), shape=tuple(shape))
