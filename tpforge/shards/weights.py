"""The weights of a rank, to the byte, and the work they make: from the same rules that `convert` follows.

One layer of each kind is planned and counted as often as the rank has it, since layers of a kind have equal
shapes; so do the tp ranks of a stage, whose parts are padded to one size.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Literal

from tpforge.dtypes import DType
from tpforge.model import ModelSpec
from tpforge.quantization import Format, find_format
from tpforge.quantization_gate import Linear
from tpforge.runtime import Runtime
from tpforge.shards.mapping import Mapping
from tpforge.shards.packing import Packing, is_quantized
from tpforge.shards.padding import plan_padding
from tpforge.shards.sharding import Rule, Shape, ShardPlan, Stage, rank_tensors

Basis = Literal["exact", "modelled", "assumed"]
_KEPT = 8192
"""Sums that are remembered of each sort: a plan asks for the same ones for every GPU, load and cache type."""


@dataclass(frozen=True)
class Blueprint:
    """A model and what is known of its tensors; `name` is what the user calls it.

    `shapes` gives what a rank holds for tp_size, moe_ep_size and whether padding is allowed; `objections` why
    TensorRT-LLM's definition cannot take a plan. `stored_format` is what its weights are quantized as, None
    where they are floats; `stored_kv` is the KV cache that its files declare. `runtimes` are those of
    TensorRT-LLM that can run it. `notes` are of what a plan takes for given, `warnings` of what keeps the
    checkpoint from being used as it is. `known` keeps what `shapes` gave, `divided` what `rank_shapes` made
    of it.
    """

    name: str
    model: ModelSpec
    num_parameters: int
    shapes: Callable[[int, int, bool], RankShapes]
    objections: Callable[[ShardPlan], list[str]] = lambda plan: []
    stored_format: str | None = None
    stored_kv: str | None = None
    runtimes: tuple[Runtime, ...] = ("tensorrt", "pytorch")
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    known: dict[tuple[int, int, bool], RankShapes] = field(default_factory=dict, compare=False, repr=False)
    divided: dict[tuple[Mapping, bool, bool], RankShapes] = field(
        default_factory=dict, compare=False, repr=False
    )


AS_FLOATS = "floats"
"""A tensor that a quantized checkpoint holds unquantized."""


@dataclass(frozen=True)
class HeldTensor:
    """A tensor as a rank holds it; `shape` [out, in], or [experts, out, in].

    `dtype` None is the checkpoint's. `is_quantized`: whether a quantized engine quantizes it. `stored_as` is
    the format that its checkpoint holds it in, or AS_FLOATS; None where one format is planned for the model.
    """

    name: str
    shape: Shape
    dtype: DType | None = None
    is_quantized: bool = False
    stored_as: str | None = None


@dataclass(frozen=True)
class RankCache:
    """What a rank keeps of a layer: for each token, or once for a request; see the planner's `LayerKv`.

    `window_is_optional`: all tokens are kept unless the runtime is told not to.
    """

    values: float = 0
    num_bytes: int = 0
    is_per_request: bool = False
    every: int = 1
    window: int | None = None
    read_limit: int | None = None
    window_is_optional: bool = False


Kind = Hashable
"""Layers of one kind hold tensors of the same shapes."""


@dataclass(frozen=True, eq=False)
class RankShapes:
    """The tensors of one tp rank: of the first and the last stage, and of a layer of each kind.

    `kinds` is the kind of every layer of the model. With `has_attention_dp` the tp ranks divide requests and
    experts, and each holds all of the rest. `caches` says what a layer of a kind keeps, None where
    every layer has keys and values of `model.attention`. `tied` is what the first stage holds
    of `last` too, where it is not the last. One equals itself alone, so that sums over it are looked up fast.
    """

    model: ModelSpec
    mapping: Mapping
    plan: ShardPlan
    first: tuple[HeldTensor, ...]
    last: tuple[HeldTensor, ...]
    layer: dict[Kind, tuple[HeldTensor, ...]]
    kinds: tuple[Kind, ...]
    caches: dict[Kind, tuple[RankCache, ...]] | None = None
    tied: tuple[HeldTensor, ...] = ()
    has_attention_dp: bool = False

    @property
    def attention_tp_size(self) -> int:
        """Ranks that the heads are divided over."""
        return 1 if self.has_attention_dp else self.mapping.tp_size

    @property
    def cache_groups(self) -> int:
        """Ranks of a stage with requests of their own in their caches."""
        return self.mapping.tp_size if self.has_attention_dp else 1

    @cached_property
    def stages(self) -> dict[int, int]:
        """The first stage of those that are alike, and how many they are.

        They hold layers of the same kinds and windows in the same order, and as little beside them.
        """
        last = self.mapping.pp_size - 1
        first: dict[tuple[object, ...], int] = {}
        counts: Counter[int] = Counter()
        for stage in range(self.mapping.pp_size):
            layers = self._held(stage)
            held = tuple((self.kinds[layer], self.model.window(layer)) for layer in layers)
            counts[first.setdefault((stage == 0, stage == last, held), stage)] += 1
        return dict(counts)

    def layers(self, stage: int) -> dict[Kind, int]:
        """How many layers of each kind the pipeline stage holds."""
        return dict(Counter(self.kinds[layer] for layer in self._held(stage)))

    def _held(self, stage: int) -> range:
        return self.mapping.layers(stage * self.mapping.tp_size, num_layers=self.model.num_layers)

    @cached_property
    def num_expert_layers(self) -> int:
        """Layers of the whole model that have experts."""
        model = self.model
        return sum(map(model.has_experts, range(model.num_layers))) if model.moe is not None else 0

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """The matrices that a quantized engine quantizes, each name and shape once."""
        found: dict[Linear, None] = {}
        for tensor in (one for tensors in self.layer.values() for one in tensors):
            if tensor.is_quantized and tensor.stored_as is None:
                name = tensor.name.removesuffix(".weight").split(".", 3)[-1]
                found[Linear(name, *tensor.shape[-2:])] = None
        return tuple(found)


def rank_shapes(
    blueprint: Blueprint, *, mapping: Mapping, pad: bool = True, attention_dp: bool = False
) -> RankShapes:
    """What the ranks of `mapping` hold; with `attention_dp` of experts their part, of the rest all.

    Raises:
        PlanError: the model cannot be sharded so.
    """
    key = (mapping, pad, attention_dp)
    if key not in blueprint.divided:
        divide = _with_attention_dp if attention_dp else _divided
        blueprint.divided[key] = divide(blueprint, mapping=mapping, pad=pad)
    return blueprint.divided[key]


def _divided(blueprint: Blueprint, *, mapping: Mapping, pad: bool) -> RankShapes:
    key = (mapping.tp_size, mapping.moe_ep_size, pad)
    if key not in blueprint.known:
        blueprint.known[key] = blueprint.shapes(*key)
    found = blueprint.known[key]
    plan = ShardPlan(model=blueprint.model, mapping=mapping, padding=found.plan.padding)
    return replace(found, mapping=mapping, plan=plan)


def _with_attention_dp(blueprint: Blueprint, *, mapping: Mapping, pad: bool) -> RankShapes:
    """Experts as the tp ranks divide them, the rest as one rank alone would hold it."""
    divided = rank_shapes(blueprint, mapping=mapping, pad=pad)
    whole = rank_shapes(blueprint, mapping=Mapping(pp_size=mapping.pp_size), pad=pad)
    # A kind may be named by the shapes that one division gives it: layers have the same place in both.
    same = dict(zip(whole.kinds, divided.kinds, strict=True))
    layer = {
        kind: (
            *(one for one in tensors if not is_of_experts(one)),
            *(one for one in divided.layer[same[kind]] if is_of_experts(one)),
        )
        for kind, tensors in whole.layer.items()
    }
    return replace(whole, mapping=mapping, layer=layer, has_attention_dp=True)


def is_of_experts(tensor: HeldTensor) -> bool:
    """Whether it holds a matrix, or its vector, for each of several experts."""
    return len(tensor.shape) == 3


@dataclass(frozen=True)
class FamilyTensors:
    """The tensors of a model by its family's tables: those that `convert` would write.

    `shapes` gives every source tensor of a spec, `reshape` what a transform does to a shape.
    """

    model: ModelSpec
    rules: Callable[[ShardPlan], tuple[Rule, ...]]
    shapes: Callable[[ModelSpec], dict[str, Shape]]
    reshape: Callable[[Shape, str | None], Shape]

    @property
    def num_parameters(self) -> int:
        """Parameters of the model: the elements of all tensors that its checkpoint holds."""
        return sum(math.prod(shape) for shape in self.shapes(self.model).values())

    def on_rank(self, tp_size: int, moe_ep_size: int, pad: bool) -> RankShapes:
        """Of one stage: the shapes do not depend on how the layers are divided over stages."""
        model = self.model
        flat = Mapping(tp_size=tp_size, moe_ep_size=moe_ep_size)
        padding = plan_padding(model, tp_size=tp_size, moe_ep_size=moe_ep_size, allow=pad)
        sample = _sample(model)
        plan = ShardPlan(model=sample, mapping=flat, padding=padding)
        shapes = self.shapes(sample)
        rules = self.rules(plan)

        def tensors(stage: Stage) -> tuple[HeldTensor, ...]:
            chosen = tuple(rule for rule in rules if rule.stage is stage)
            found = rank_tensors(chosen, shapes, plan=plan, rank=0, reshape=self.reshape)
            return tuple(HeldTensor(one.name, one.shape, one.dtype, is_quantized(one.name)) for one in found)

        kinds = [sample.has_experts(index) for index in range(sample.num_layers)]
        layer: dict[Kind, list[HeldTensor]] = {kind: [] for kind in kinds}
        for tensor in tensors(Stage.LAYER):
            layer[kinds[int(tensor.name.split(".")[2])]].append(tensor)
        return RankShapes(
            model=model,
            mapping=flat,
            plan=plan,
            first=tensors(Stage.FIRST),
            last=tensors(Stage.LAST),
            layer={kind: tuple(held) for kind, held in layer.items()},
            kinds=tuple(model.has_experts(index) for index in range(model.num_layers)),
        )


def weight_bytes(shapes: RankShapes, *, stage: int, dtype: DType, weight_format: str | None) -> int:
    """Bytes of the weights on a rank of `stage`, with scales and padding, in a format or as floats."""
    return _weight_bytes(shapes, stage, dtype, weight_format)


@lru_cache(maxsize=_KEPT)
def _weight_bytes(shapes: RankShapes, stage: int, dtype: DType, weight_format: str | None) -> int:
    def size(tensors: tuple[HeldTensor, ...]) -> int:
        return sum(_tensor_bytes(tensor, dtype, weight_format) for tensor in tensors)

    counts = shapes.layers(stage)
    total = sum(counts.get(kind, 0) * size(tensors) for kind, tensors in shapes.layer.items())
    if stage == 0:
        total += size(shapes.first)
        total += size(shapes.tied) if shapes.mapping.pp_size > 1 else 0
    if stage == shapes.mapping.pp_size - 1:
        total += size(shapes.last)
    return total


def weight_basis(weight_format: str | None) -> Basis:
    """Whether `weight_bytes` is what `convert` writes, or a sum over the layout of another tool's format."""
    return "exact" if weight_format is None or find_format(weight_format).made_by == "convert" else "modelled"


Elements = tuple[tuple[str | None, float], ...]
"""Elements that a token is multiplied with, by the format of their weights; None: floats."""


@dataclass(frozen=True)
class StageWork:
    """What a stage's weights make a rank do for one token, and read for one step.

    `dense` counts the elements that a token is multiplied with, `experts` those of the experts
    that it is routed to; `dense_bytes` are read at every step, `expert_bytes` as far as experts are chosen.
    `head_weights` is the LM head's, for tokens whose logits are wanted.
    """

    dense: Elements
    experts: Elements
    dense_bytes: int
    expert_bytes: int
    head_weights: int
    head_bytes: int

    @property
    def dense_weights(self) -> float:
        """Those of all formats."""
        return sum(count for _, count in self.dense)

    @property
    def expert_weights(self) -> float:
        """Those of all formats."""
        return sum(count for _, count in self.experts)


def stage_work(shapes: RankShapes, *, stage: int, dtype: DType, weight_format: str | None) -> StageWork:
    """The work of a rank of `stage`; vectors (norms, biases) are left out."""
    return _stage_work(shapes, stage, dtype, weight_format)


@lru_cache(maxsize=_KEPT)
def _stage_work(shapes: RankShapes, stage: int, dtype: DType, weight_format: str | None) -> StageWork:
    moe = shapes.model.moe
    routed = moe.top_k / moe.num_experts if moe else 0.0
    elements: dict[bool, Counter[str | None]] = {True: Counter(), False: Counter()}
    sizes: Counter[bool] = Counter()
    for kind, count in shapes.layers(stage).items():
        for tensor in shapes.layer.get(kind, ()):
            if len(tensor.shape) < 2:
                continue
            of_experts = is_of_experts(tensor)
            sizes[of_experts] += count * _tensor_bytes(tensor, dtype, weight_format)
            held = _format_of(tensor, weight_format=weight_format)
            elements[of_experts][held] += count * math.prod(tensor.shape)
    is_last = stage == shapes.mapping.pp_size - 1
    heads = [tensor for tensor in shapes.last if len(tensor.shape) == 2] if is_last else []
    return StageWork(
        dense=tuple((name, float(count)) for name, count in elements[False].items()),
        experts=tuple((name, count * routed) for name, count in elements[True].items()),
        dense_bytes=sizes[False],
        expert_bytes=sizes[True],
        head_weights=sum(math.prod(tensor.shape) for tensor in heads),
        head_bytes=sum(_tensor_bytes(tensor, dtype, None) for tensor in heads),
    )


def _format_of(tensor: HeldTensor, *, weight_format: str | None) -> str | None:
    """The format that a tensor is held in; None: floats."""
    if not tensor.is_quantized or tensor.stored_as == AS_FLOATS:
        return None
    return tensor.stored_as or weight_format


def _sample(model: ModelSpec) -> ModelSpec:
    """The model with the first layer of each kind only."""
    kinds = [model.has_experts(layer) for layer in range(model.num_layers)]
    chosen = sorted(kinds.index(kind) for kind in set(kinds))
    sliding = model.attention.sliding_layers
    attention = model.attention
    if sliding is not None:
        kept = tuple(sliding[layer] for layer in chosen)
        attention = attention.model_copy(update={"sliding_layers": kept})
    moe = model.moe
    if moe is not None:
        moe = moe.model_copy(update={"layers": tuple(kinds[layer] for layer in chosen)})
    return model.model_copy(update={"num_layers": len(chosen), "attention": attention, "moe": moe})


@lru_cache(maxsize=_KEPT)
def _tensor_bytes(tensor: HeldTensor, dtype: DType, weight_format: str | None) -> int:
    held = _format_of(tensor, weight_format=weight_format)
    if held is None:
        return math.prod(tensor.shape) * (tensor.dtype or dtype).num_bytes
    row = find_format(held)
    if row.made_by == "convert":
        packed = Packing(held, row.group_size)
        return sum(one.num_bytes for one in packed.stored(tensor.name, tensor.shape, dtype=dtype))
    return _laid_out_elsewhere(row, tensor.shape)


def _laid_out_elsewhere(row: Format, shape: tuple[int, ...]) -> int:
    """Bytes of a matrix in a format that ModelOpt or the checkpoint's author packs.

    fp8: a byte an element, two float32 scales (weight, input). INT4 with groups: half a byte, a 16-bit scale
    a group (and as many zeros for GPTQ and AWQ), for AWQ a 16-bit factor a column. int8: a byte, a float32
    scale a row.
    Source: nvidia-modelopt 0.47, hf_quant_config.json and its tensors; TensorRT-LLM 1.2,
    quantization/layers.py.
    """
    *experts, rows, columns = shape
    matrices = math.prod(experts)
    elements = rows * columns
    size = elements * row.weight_bits // 8
    if row.group_size:
        zeros = 2 if row.name in ("gptq", "awq") else 1
        size += zeros * 2 * elements // row.group_size
        size += 2 * columns if row.name in ("int4_awq", "w4a8_awq") else 0
    else:
        size += 4 * rows if row.name.startswith("int8") else 8
    return matrices * size
