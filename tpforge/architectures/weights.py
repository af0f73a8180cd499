"""What a rank holds of a model that is known by its config.json alone: its part of each tensor, and caches.

It plans for TensorRT-LLM's PyTorch backend, which loads the checkpoint as it is: no tensor is padded but the
vocabulary. Towers stand whole on every rank of the first stage.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from tpforge.architectures.declared import Cache, Declared, Layer, Tensor
from tpforge.architectures.division import require_division
from tpforge.model import ModelSpec
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import HeadLayout, Padding
from tpforge.shards.sharding import Shape, ShardPlan
from tpforge.shards.weights import HeldTensor, RankCache, RankShapes

StoredAs = Callable[[Tensor], str]
"""The format that a checkpoint holds a tensor in."""


@dataclass(frozen=True)
class DeclaredTensors:
    """The tensors of a declared model; `stored_as` is None for a checkpoint of floats."""

    declared: Declared
    model: ModelSpec
    stored_as: StoredAs | None = None

    def on_rank(self, tp_size: int, moe_ep_size: int, pad: bool) -> RankShapes:
        """What one of tp_size ranks holds.

        Raises:
            PlanError: tp_size does not divide the model; `pad` changes nothing about that.
        """
        require_division(self.declared, tp_size=tp_size, moe_ep_size=moe_ep_size)
        ranks = _Ranks(tp_size, moe_ep_size)
        flat = Mapping(tp_size=tp_size, moe_ep_size=moe_ep_size)
        held = [self._held(layer, ranks) for layer in self.declared.layers]
        kinds = [
            (layer.kind, tuple((one.shape, one.stored_as) for one in own)) for layer, own in self._zip(held)
        ]
        head = [one for one in self.declared.outer if one.name == "lm_head.weight"]
        embedding = [one for one in self.declared.outer if one.name == "embed_tokens.weight"]
        rest = [one for one in self.declared.outer if one not in (*head, *embedding)]
        tied = () if head else tuple(self._tensor(one, ranks) for one in embedding)
        first = [*(embedding if head else ()), *rest[1:], *self.declared.tower]
        return RankShapes(
            model=self.model,
            mapping=flat,
            plan=ShardPlan(model=self.model, mapping=flat, padding=unpadded(self.model)),
            first=tuple(self._tensor(one, ranks) for one in first),
            last=(*tied, *(self._tensor(one, ranks) for one in (*rest[:1], *head))),
            layer=dict(zip(kinds, held, strict=True)),
            kinds=tuple(kinds),
            caches={
                kind: tuple(ranks.cache(one) for one in layer.caches)
                for kind, layer in zip(kinds, self.declared.layers, strict=True)
            },
            tied=tied,
        )

    @cached_property
    def _stored(self) -> dict[str, str]:
        """The format of every tensor, found once."""
        if self.stored_as is None:
            return {}
        layers = (one for layer in self.declared.layers for one in layer.tensors)
        return {
            one.name: self.stored_as(one) for one in (*layers, *self.declared.outer, *self.declared.tower)
        }

    def _zip(self, held: list[tuple[HeldTensor, ...]]) -> list[tuple[Layer, tuple[HeldTensor, ...]]]:
        return list(zip(self.declared.layers, held, strict=True))

    def _held(self, layer: Layer, ranks: _Ranks) -> tuple[HeldTensor, ...]:
        return tuple(self._tensor(one, ranks) for one in layer.tensors)

    def _tensor(self, tensor: Tensor, ranks: _Ranks) -> HeldTensor:
        stored = self._stored.get(tensor.name)
        quantizes = tensor.is_linear and (stored is not None or not tensor.name.startswith("lm_head."))
        return HeldTensor(tensor.name, ranks.part(tensor), is_quantized=quantizes, stored_as=stored)


@dataclass(frozen=True)
class _Ranks:
    tp_size: int
    moe_ep_size: int

    def part(self, tensor: Tensor) -> Shape:
        """The shape of a rank's part."""
        rows, *others = tensor.shape
        moe_tp_size = self.tp_size // self.moe_ep_size
        match tensor.cut:
            case "heads" | "width":
                return (rows // self.tp_size, *others)
            case "vocab":
                return (-(-rows // self.tp_size), *others)
            case "kv":
                kv_heads = tensor.heads[1]
                return (rows // kv_heads * max(1, kv_heads // self.tp_size), *others)
            case "heads in" | "width in":
                return (rows, *others[:-1], others[-1] // self.tp_size)
            case "experts":
                return (rows // self.moe_ep_size, others[0] // moe_tp_size, *others[1:])
            case "experts in":
                return (rows // self.moe_ep_size, *others[:-1], others[-1] // moe_tp_size)
        return tensor.shape

    def cache(self, cache: Cache) -> RankCache:
        """What a rank keeps: KV heads are divided or duplicated, states divided, latents kept whole."""
        share = {"kv": max(1, cache.kv_heads // self.tp_size) / cache.kv_heads, "width": 1 / self.tp_size}
        part = share.get(cache.cut, 1.0)
        return RankCache(
            values=cache.values * part,
            num_bytes=round(cache.num_bytes * part),
            is_per_request=cache.is_per_request,
            every=cache.every,
            window=cache.window,
            read_limit=cache.read_limit,
            # Of keys and values by heads; other caches with a window (DeepSeek-V4) have one of their own.
            window_is_optional=cache.cut == "kv" and cache.window is not None,
        )


def unpadded(model: ModelSpec) -> Padding:
    """The heads and widths as they are."""
    attention = model.attention
    heads = HeadLayout(
        query_heads=tuple(range(attention.num_heads)), kv_heads=tuple(range(attention.num_kv_heads))
    )
    moe = model.moe
    return Padding(
        heads=heads,
        intermediate_size=model.mlp.intermediate_size,
        expert_size=moe.intermediate_size if moe else 0,
        shared_size=moe.shared_intermediate_size if moe else 0,
    )
