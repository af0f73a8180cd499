"""One prompt on the ranks against what transformers says: how far off, where, and whether that may be.

It opens the ranks of an engine, and no model of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from engines.parity.expected import Expected, num_tokens_of
from engines.parity.far_positions import largest
from engines.parity.prompts import Prompt
from engines.reference import EngineConfig, Executor, open_executor
from engines.reference.batches import Logits, Prefill
from engines.reference.greedy import greedy_together
from tpforge.manifest import Manifest

LOGIT_TOLERANCE = 2e-3
_NUM_RIVALS = 16
"""Tokens that may stand in a greedy one's place; those behind them are too far off."""


@dataclass(frozen=True)
class Rounded:
    """The largest error of a logit, and of a difference between two that choose a greedy token."""

    logit: float
    margin: float


@dataclass(frozen=True)
class Difference:
    """One prompt on the ranks against transformers."""

    rounding: Rounded
    kl_divergences: Tensor
    num_top1_equal: int
    num_greedy_equal: int
    problems: tuple[str, ...]


@contextmanager
def open_ranks(config: EngineConfig, compute_dtype: str, *, num_slots: int = 1) -> Iterator[Executor]:
    """The ranks of an engine in one process, for as long as the context lasts."""
    executor = open_executor(
        config, kind="lockstep", device="auto", compute_dtype=compute_dtype, num_slots=num_slots
    )
    try:
        yield executor
    finally:
        executor.close()


def greedy_answers(config: EngineConfig, manifest: Manifest, prompts: list[Prompt]) -> dict[str, list[int]]:
    """What the ranks answer to every prompt, step by step, in batches no larger than the engine serves."""
    num_slots = min(len(prompts), manifest.limits.max_batch_size)
    with open_ranks(config, "float32", num_slots=num_slots) as executor:
        answers = greedy_together(
            executor,
            [prompt.ids for prompt in prompts],
            num_tokens=[num_tokens_of(manifest, prompt) for prompt in prompts],
            num_slots=num_slots,
        )
    return {prompt.name: tokens for prompt, tokens in zip(prompts, answers, strict=True)}


def forced_logits(item: Expected, executor: Executor) -> Tensor:
    """The ranks' logits at every position of the prompt and its expected continuation."""
    sequence = (*item.prompt.ids, *item.tokens[:-1])
    logits = executor.forward(Prefill(slot=0, start=0, tokens=sequence, logits=Logits.ALL))
    assert logits is not None
    return logits


def compare(item: Expected, executor: Executor, *, found: Sequence[int]) -> Difference:
    """The ranks on one prompt, and their own greedy tokens `found`, against what transformers says of it."""
    logits = forced_logits(item, executor)
    equal = [ours == theirs for ours, theirs in zip(found, item.tokens, strict=True)]
    first_miss = equal.index(False) if False in equal else len(equal)
    problems = _deviations(item, logits, executor)
    if first_miss < len(equal) and item.margins[first_miss] > 2 * LOGIT_TOLERANCE:
        problems.append(
            f"prompt {item.prompt.name!r}: greedy token {first_miss} is {found[first_miss]}, transformers "
            f"gives {item.tokens[first_miss]} by a margin of {item.margins[first_miss]:.3f}"
        )
    # In float64: the divergence of near-equal distributions is below float32's rounding.
    expected = item.logits.double().log_softmax(-1)
    divergences = (expected.exp() * (expected - logits.double().log_softmax(-1))).sum(-1)
    return Difference(
        rounding=rounded_by(item, logits),
        kl_divergences=divergences,
        num_top1_equal=int((logits.argmax(-1) == item.logits.argmax(-1)).sum()),
        num_greedy_equal=first_miss,
        problems=tuple(problems),
    )


def _deviations(item: Expected, logits: Tensor, executor: Executor) -> list[str]:
    """Where the logits miss the tolerance, and whether the ranks say the same when asked again.

    They are asked again only to tell a wrong shard, which is wrong every time, from a machine that
    computes wrongly now and then; the first answer counts.
    """
    errors = (logits - item.logits).abs().amax(-1).nan_to_num(nan=torch.inf)
    off = (errors >= LOGIT_TOLERANCE).nonzero().flatten().tolist()
    if not off:
        return []
    change = float((forced_logits(item, executor) - logits).abs().max())
    return [
        f"prompt {item.prompt.name!r}: logits off by up to {float(errors.max()):.2e} at {len(off)} of "
        f"{len(errors)} positions, first at {off[0]}; computed again, the ranks change by {change:.1e}"
    ]


def rounded_by(item: Expected, logits: Tensor) -> Rounded:
    """How far logits are off: all of them, and what parts each greedy token from its likeliest rivals."""
    start = len(item.prompt.ids) - 1
    best = item.logits[start:].topk(min(1 + _NUM_RIVALS, logits.shape[1])).indices

    def margins(values: Tensor) -> Tensor:
        held = values[start:].gather(1, best)
        return held[:, :1] - held

    return Rounded(
        logit=largest(logits - item.logits), margin=largest(margins(logits) - margins(item.logits))
    )
