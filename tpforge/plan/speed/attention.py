"""What attention computes on a rank: the scores of prompts and of new tokens, in layers with windows.

It knows no bytes of the cache (`kv`) and no speeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from tpforge.model import AttentionSpec
from tpforge.shards.weights import RankCache, RankShapes


@dataclass(frozen=True)
class Seen:
    """Layers of which each token sees the same: `num_layers`; of `every` tokens one entry, within a window.

    Of new tokens no more than `chosen` entries, where attention chooses; None is no limit.
    """

    num_layers: int
    window: int | None = None
    every: int = 1
    chosen: int | None = None

    def of_prompt(self, tokens: float) -> float:
        """The entries that a token of a prompt sees which so many are before."""
        return (tokens if self.window is None else min(tokens, self.window)) / self.every

    def of_answer(self, tokens: float) -> float:
        """The same of a new token."""
        entries = self.of_prompt(tokens)
        return entries if self.chosen is None else min(entries, self.chosen)


class AttentionWork:
    """The arithmetic of attention on one rank of all stages together."""

    def __init__(self, shapes: RankShapes) -> None:
        heads = shapes.plan.padding.heads.num_heads / shapes.attention_tp_size
        prompt, answer = _widths(shapes.model.attention)
        self._prompt, self._answer = 2 * heads * prompt, 2 * heads * answer
        self._layers = tuple(Seen(count, *what) for what, count in Counter(_seen(shapes)).items())

    def of_prompt(self, tokens: float) -> float:
        """Operations for one token of a prompt that so many are before, in the mean."""
        return self._prompt * sum(one.num_layers * one.of_prompt(tokens) for one in self._layers)

    def of_answer(self, tokens: float) -> float:
        """Operations for one new token of a request of so many."""
        return self._answer * sum(one.num_layers * one.of_answer(tokens) for one in self._layers)


@lru_cache(maxsize=1024)
def attention_work(shapes: RankShapes) -> AttentionWork:
    """Computed once for ranks of the same shapes, whatever their formats and GPUs."""
    return AttentionWork(shapes)


def _widths(attention: AttentionSpec) -> tuple[int, int]:
    """Values of a head that are multiplied for a token seen, key and value together: of prompts, of answers.

    Latent attention reads prompts by heads, and answers with its weights absorbed into queries and outputs:
    each head is then as wide as the latent. Source: DeepSeek-V2, section 2.1.3.
    """
    latent = attention.latent
    if latent is None:
        return 2 * attention.head_size, 2 * attention.head_size
    prompt = latent.qk_nope_head_size + latent.qk_rope_head_size + latent.v_head_size
    return prompt, 2 * latent.kv_lora_rank + latent.qk_rope_head_size


_What = tuple[int | None, int, int | None]


def _seen(shapes: RankShapes) -> Iterator[_What]:
    """Window, tokens of an entry, entries chosen: of every layer whose cache grows; some have two caches."""
    if shapes.caches is None:
        yield from ((shapes.model.window(layer), 1, None) for layer in range(shapes.model.num_layers))
        return
    for kind in shapes.kinds:
        yield from (
            (one.window, one.every, one.read_limit) for one in shapes.caches[kind] if _is_attended(one)
        )


def _is_attended(cache: RankCache) -> bool:
    """Whether it has keys and values of tokens: states and an index have none."""
    return not cache.is_per_request and cache.values > 0
