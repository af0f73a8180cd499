"""Which slice of which source tensor goes where on which rank: rules, cuts and spans, no tensors.

A family is a tuple of rules. A rule makes one target tensor by joining parts on dim 0; a part is one
source tensor (or a section of a fused one) with a cut; a cut gives, for one rank, the spans of the source
along one dim. Anything that moves data (`builders.conversion.convert`) only follows spans.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum

from tpforge.dtypes import DType
from tpforge.errors import PlanError
from tpforge.model import ModelSpec, MoeSpec
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping
from tpforge.shards.packing import Packing, Stored, kv_scale_name, packing_of
from tpforge.shards.padding import Padding
from tpforge.shards.sections import Section, Span, compose, merge, section_spans

Shape = tuple[int, ...]
Reshape = Callable[[Shape, str | None], Shape]
"""The shape of a tensor after a named transform."""


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
    EXPERT_ROWS = "expert rows"
    """Dim 0 of one expert's width, over the ranks that share the expert."""
    EXPERT_COLUMNS = "expert columns"
    """Dim 1 of one expert's width."""
    SHARED_ROWS = "shared expert rows"
    """Dim 0 of the width of the shared experts, over all tp ranks."""
    SHARED_COLUMNS = "shared expert columns"
    """Dim 1 of the width of the shared experts."""
    VOCAB_ROWS = "vocab rows"
    """Dim 0 of the vocabulary, padded to a multiple of tp with zero rows on the last ranks."""
    HIDDEN_COLUMNS = "hidden columns"
    """Dim 1 of the hidden size."""

    @property
    def dim(self) -> int:
        """The dim that is divided; 0 for COPY."""
        return 1 if self.value.endswith("columns") else 0


class Stage(Enum):
    """Which pipeline stages hold a tensor."""

    FIRST = "first stage"
    LAST = "last stage"
    LAYER = "the stage of the layer"


class LayerKind(Enum):
    """Which layers have a tensor, in a model where some layers have experts and the others a dense block."""

    ALL = "all layers"
    DENSE = "layers without experts"
    EXPERTS = "layers with experts"

    def holds(self, model: ModelSpec, layer: int) -> bool:
        """Whether `layer` of `model` is of this kind."""
        return self is LayerKind.ALL or model.has_experts(layer) is (self is LayerKind.EXPERTS)


@dataclass(frozen=True)
class Part:
    """One source tensor of a rule, or a section of it.

    ``{layer}`` in `source` stands for the global layer index, ``{expert}`` for the expert. The transform
    is applied first, the section is taken of its result, the cut divides the section.
    """

    source: str
    cut: Cut
    transform: str | None = None
    section: Section = Section.WHOLE


@dataclass(frozen=True)
class Rule:
    """One target tensor; ``{layer}`` in `target` stands for the index local to the pipeline stage.

    `experts` repeats the parts for every expert of the rank and stacks the results on a new first dim.
    `dtype` is the tensor's own type, where it is not the checkpoint's.
    """

    target: str
    parts: tuple[Part, ...]
    stage: Stage = Stage.LAYER
    layers: LayerKind = LayerKind.ALL
    experts: bool = False
    dtype: DType | None = None


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
    """One tensor of a rank: its slices one after the other, and the resulting shape.

    `dtype` None stands for the type of the checkpoint. With a `packing` it becomes several tensors in the
    file; see `tpforge.shards.packing`. `value` is that of a tensor that is made of no source.
    """

    name: str
    slices: tuple[Slice, ...]
    shape: tuple[int, ...]
    dtype: DType | None = None
    packing: Packing | None = None
    value: float | None = None


def stored_tensors(tensor: RankTensor, *, dtype: DType) -> tuple[Stored, ...]:
    """What `tensor` becomes in its file; `dtype` is the checkpoint's."""
    own = tensor.dtype or dtype
    if tensor.packing is None:
        return (Stored(tensor.name, own.safetensors, tensor.shape),)
    return tensor.packing.stored(tensor.name, tensor.shape, dtype=own)


@dataclass(frozen=True)
class ShardPlan:
    """Everything that decides the content of the rank files, except the data."""

    model: ModelSpec
    mapping: Mapping
    padding: Padding
    parallel_embedding_dim: int | None = None
    quantization: Quantization | None = None


def spans(cut: Cut, size: int, *, plan: ShardPlan, tp_rank: int) -> tuple[Span, ...]:
    """The spans of a source dim of `size` that tp_rank holds.

    Raises:
        PlanError: `size` is not what the model's config says this cut divides.
    """
    tp_size, padding = plan.mapping.tp_size, plan.padding
    if cut is Cut.COPY:
        return (Span(0, size),)
    if cut in (Cut.QUERY_ROWS, Cut.QUERY_COLUMNS):
        heads = padding.heads.rank_query_heads(tp_rank, tp_size=tp_size)
        return _head_spans(heads, size, num_heads=plan.model.attention.num_heads)
    if cut is Cut.KV_ROWS:
        heads = padding.heads.rank_kv_heads(tp_rank, tp_size=tp_size)
        return _head_spans(heads, size, num_heads=plan.model.attention.num_kv_heads)
    if cut in (Cut.MLP_ROWS, Cut.MLP_COLUMNS):
        _expect(size, plan.model.mlp.intermediate_size, what="intermediate_size")
        return _even_spans(size, padded=padding.intermediate_size, parts=tp_size, index=tp_rank)
    if cut in (Cut.EXPERT_ROWS, Cut.EXPERT_COLUMNS):
        _expect(size, _moe(plan).intermediate_size, what="an expert's intermediate size")
        parts, index = plan.mapping.moe_tp_size, plan.mapping.moe_tp_rank(tp_rank)
        return _even_spans(size, padded=padding.expert_size, parts=parts, index=index)
    if cut in (Cut.SHARED_ROWS, Cut.SHARED_COLUMNS):
        _expect(size, _moe(plan).shared_intermediate_size, what="the shared experts' intermediate size")
        return _even_spans(size, padded=padding.shared_size, parts=tp_size, index=tp_rank)
    if cut is Cut.VOCAB_ROWS:
        _expect(size, plan.model.vocab_size, what="vocab_size")
        padded = -(-size // tp_size) * tp_size
        return _even_spans(size, padded=padded, parts=tp_size, index=tp_rank)
    if size % tp_size:
        raise PlanError(f"hidden size {size} is not a multiple of tp={tp_size}; use --parallel-embedding 0")
    return _even_spans(size, padded=size, parts=tp_size, index=tp_rank)


def _moe(plan: ShardPlan) -> MoeSpec:
    assert plan.model.moe is not None, "a cut of experts in a model without experts"
    return plan.model.moe


def _expect(found: int, expected: int, *, what: str) -> None:
    if found != expected:
        raise PlanError(f"found size {found}, but config.json says {what}={expected}")


def _even_spans(size: int, *, padded: int, parts: int, index: int) -> tuple[Span, ...]:
    per_part = padded // parts
    start = min(index * per_part, size)
    stop = min(start + per_part, size)
    return merge([Span(start, stop - start), Span(None, per_part - (stop - start))])


def _head_spans(heads: tuple[int | None, ...], size: int, *, num_heads: int) -> tuple[Span, ...]:
    """A head's size is that of the tensor: queries, keys and values may have different ones (DeepSeek)."""
    if size % num_heads:
        raise PlanError(f"found size {size}, but config.json says {num_heads} heads, which do not divide it")
    head_size = size // num_heads
    return merge([Span(None if head is None else head * head_size, head_size) for head in heads])


def _untransformed(shape: Shape, transform: str | None) -> Shape:
    assert transform is None, "a rule with a transform needs its effect on shapes"
    return shape


def rank_tensors(
    rules: tuple[Rule, ...],
    source_shapes: dict[str, Shape],
    *,
    plan: ShardPlan,
    rank: int,
    reshape: Reshape = _untransformed,
) -> tuple[RankTensor, ...]:
    """The tensors of one rank file in their order, with shapes; nothing is read.

    `reshape` says what the transforms do to shapes; one source tensor may be used with several.

    Raises:
        PlanError: a source tensor is missing or has a shape that the config contradicts; all are listed.
    """
    shapes = _Shapes(source_shapes, reshape)
    layers = plan.mapping.layers(rank, num_layers=plan.model.num_layers)
    tensors: list[RankTensor] = []
    problems: list[str] = []
    for rule in rules:
        for local, layer in _places(rule, layers, plan=plan, rank=rank):
            target = rule.target.format(layer=local)
            try:
                tensor = _rank_tensor(rule, target, layer, shapes, plan=plan, rank=rank)
                tensors.append(replace(tensor, packing=packing_of(target, plan.quantization)))
            except PlanError as error:
                problems.append(str(error))
    if problems:
        raise PlanError.listing("the checkpoint does not hold what its config.json declares:", problems)
    return (*tensors, *_kv_scales(plan.quantization, layers))


def _kv_scales(quantization: Quantization | None, layers: range) -> Iterator[RankTensor]:
    if quantization is None or quantization.kv_cache is None:
        return
    for local, layer in enumerate(layers):
        value = quantization.kv_scales[layer] if quantization.kv_scales else 1.0
        yield RankTensor(kv_scale_name(local), (), (1,), dtype=DType.FLOAT32, value=value)


@dataclass(frozen=True)
class _Shapes:
    """The shapes of all source tensors, what transforms do to them, and the spans that one rank holds.

    Layers and experts by the thousand have the same spans, which are therefore kept.
    """

    of_source: dict[str, Shape]
    reshape: Reshape
    spans: dict[tuple[Cut, Section, int, int], tuple[Span, ...]] = field(default_factory=dict)


def _places(rule: Rule, layers: range, *, plan: ShardPlan, rank: int) -> list[tuple[int, int]]:
    """(local, global) layer indices at which a rule applies on `rank`."""
    if rule.stage is Stage.LAYER:
        places = enumerate(layers)
        return [(local, layer) for local, layer in places if rule.layers.holds(plan.model, layer)]
    if rule.stage is Stage.FIRST:
        return [(0, 0)] if plan.mapping.is_first_stage(rank) else []
    return [(0, 0)] if plan.mapping.is_last_stage(rank) else []


def _rank_tensor(
    rule: Rule,
    target: str,
    layer: int,
    shapes: _Shapes,
    *,
    plan: ShardPlan,
    rank: int,
) -> RankTensor:
    tp_rank = plan.mapping.tp_rank(rank)
    if not rule.experts:
        slices, shape = _joined(rule, target, shapes, plan=plan, tp_rank=tp_rank, layer=layer)
        return RankTensor(name=target, slices=slices, shape=shape, dtype=rule.dtype)
    held = plan.mapping.experts(tp_rank, num_experts=_moe(plan).num_experts)
    stacked: list[Slice] = []
    for expert in held:
        slices, shape = _joined(rule, target, shapes, plan=plan, tp_rank=tp_rank, layer=layer, expert=expert)
        stacked += slices
    return RankTensor(name=target, slices=tuple(stacked), shape=(len(held), *shape), dtype=rule.dtype)


def _joined(
    rule: Rule,
    target: str,
    shapes: _Shapes,
    *,
    plan: ShardPlan,
    tp_rank: int,
    layer: int,
    expert: int = 0,
) -> tuple[tuple[Slice, ...], tuple[int, ...]]:
    """The slices of the parts of a rule, and the shape of what they make when joined on dim 0."""
    slices = []
    shape: list[int] = []
    for part in rule.parts:
        name = part.source.format(layer=layer, expert=expert)
        if name not in shapes.of_source:
            raise PlanError(f"{name}: missing; {target} is made of it")
        source_shape = shapes.reshape(shapes.of_source[name], part.transform)
        dim = part.cut.dim
        if len(source_shape) <= dim:
            raise PlanError(f"{name}: found shape {list(source_shape)}, expected {dim + 1} dims")
        key = (part.cut, part.section, source_shape[dim], 0 if part.section is Section.WHOLE else expert)
        if key not in shapes.spans:
            try:
                shapes.spans[key] = _part_spans(
                    part, source_shape[dim], plan=plan, tp_rank=tp_rank, expert=expert
                )
            except PlanError as error:
                raise PlanError(f"{name}: shape {list(source_shape)}: {error}") from None
        piece = Slice(source=name, dim=dim, spans=shapes.spans[key], transform=part.transform)
        slices.append(piece)
        piece_shape = list(source_shape)
        piece_shape[dim] = piece.length
        if shape and piece_shape[1:] != shape[1:]:
            raise PlanError(f"{name}: shape {list(source_shape)} cannot be joined into {target}")
        shape = [shape[0] + piece_shape[0], *shape[1:]] if shape else piece_shape
    return tuple(slices), tuple(shape)


def _part_spans(part: Part, size: int, *, plan: ShardPlan, tp_rank: int, expert: int) -> tuple[Span, ...]:
    if part.section is Section.WHOLE:
        return spans(part.cut, size, plan=plan, tp_rank=tp_rank)
    outer = section_spans(part.section, size, model=plan.model, expert=expert)
    inner = spans(part.cut, sum(span.length for span in outer), plan=plan, tp_rank=tp_rank)
    return compose(outer, inner)
