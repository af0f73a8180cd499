"""What transformers says for each prompt: its greedy tokens, and the logits at every position.

It knows nothing of ranks; `comparing` holds them against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engines.parity.prompts import Prompt
from tpforge.manifest import Manifest
from tpforge.progress import Progress

NUM_GREEDY_TOKENS = 64


@dataclass(frozen=True)
class Expected:
    """What transformers says for a prompt: greedy tokens, and logits [prompt + tokens - 1, vocab]."""

    prompt: Prompt
    tokens: tuple[int, ...]
    logits: Tensor

    @property
    def margins(self) -> Tensor:
        """By how much each greedy token won over the second best."""
        top = self.logits[len(self.prompt.ids) - 1 :].topk(2).values
        return top[:, 0] - top[:, 1]


def expectations(
    model: Any,
    manifest: Manifest,
    prompts: list[Prompt],
    *,
    proposed: Mapping[str, Sequence[int]] | None = None,
    progress: Progress,
) -> list[Expected]:
    """What a transformers model says for every prompt.

    `proposed` are answers by the name of the prompt, whoever gave them: as far as each token is the one that
    the model itself chooses there, one pass says so, and the answer is the model's own.
    """
    expected = []
    for prompt in prompts:
        num_tokens = num_tokens_of(manifest, prompt)
        said = tuple((proposed or {}).get(prompt.name, ()))
        own = _confirm(model, prompt, said[:num_tokens])
        how = "in one pass"
        if own is None or len(own.tokens) < num_tokens:
            own = _expect(model, prompt, known=own.tokens if own else (), num_tokens=num_tokens)
            how = "step by step"
        expected.append(own)
        progress(f"transformers: {prompt.name}: {num_tokens} greedy tokens, {how}")
    return expected


def num_tokens_of(manifest: Manifest, prompt: Prompt) -> int:
    """How many greedy tokens of a prompt are compared: as many as the engine has room for."""
    return min(NUM_GREEDY_TOKENS, manifest.limits.max_seq_len - len(prompt.ids))


@torch.inference_mode()
def _confirm(model: Any, prompt: Prompt, tokens: tuple[int, ...]) -> Expected | None:
    """The answer as far as the model chooses each of its tokens after those before; None without any."""
    if not tokens:
        return None
    output = model(torch.tensor([[*prompt.ids, *tokens[:-1]]]), use_cache=False)
    logits = output.logits[0].float()
    chosen = logits[len(prompt.ids) - 1 :].argmax(-1).tolist()
    equal = [ours == theirs for ours, theirs in zip(chosen, tokens, strict=True)]
    same = equal.index(False) if False in equal else len(equal)
    return Expected(prompt, tokens[:same], logits[: len(prompt.ids) + same - 1]) if same else None


@torch.inference_mode()
def _expect(model: Any, prompt: Prompt, *, known: tuple[int, ...], num_tokens: int) -> Expected:
    """Greedy tokens by a plain loop, from those that are `known` on.

    generate() would apply the model's own generation config.
    """
    tokens = list(known)
    output = model(torch.tensor([[*prompt.ids, *known]]), use_cache=True)
    logits = [output.logits[0]]
    while True:
        tokens.append(int(logits[-1][-1].argmax()))
        if len(tokens) == num_tokens:
            return Expected(prompt, tuple(tokens), torch.cat(logits).float())
        output = model(torch.tensor([[tokens[-1]]]), past_key_values=output.past_key_values, use_cache=True)
        logits.append(output.logits[0])
