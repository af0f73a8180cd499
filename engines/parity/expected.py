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

    `proposed` are answers by the name of the prompt, whoever gave them: where each token is the one that the
    model itself chooses there, one pass says so, and the answer is the model's own.
    """
    expected = []
    for prompt in prompts:
        num_tokens = num_tokens_of(manifest, prompt)
        said = tuple((proposed or {}).get(prompt.name, ()))
        own = _confirm(model, prompt, said) if len(said) == num_tokens else None
        expected.append(own or _expect(model, prompt, num_tokens=num_tokens))
        how = "in one pass" if own else "step by step"
        progress(f"transformers: {prompt.name}: {num_tokens} greedy tokens, {how}")
    return expected


def num_tokens_of(manifest: Manifest, prompt: Prompt) -> int:
    """How many greedy tokens of a prompt are compared: as many as the engine has room for."""
    return min(NUM_GREEDY_TOKENS, manifest.limits.max_seq_len - len(prompt.ids))


@torch.inference_mode()
def _confirm(model: Any, prompt: Prompt, tokens: tuple[int, ...]) -> Expected | None:
    """The answer, when the model chooses each of its tokens after those before; None when it does not."""
    output = model(torch.tensor([[*prompt.ids, *tokens[:-1]]]), use_cache=False)
    logits = output.logits[0].float()
    chosen = logits[len(prompt.ids) - 1 :].argmax(-1)
    return Expected(prompt, tokens, logits) if chosen.tolist() == list(tokens) else None


@torch.inference_mode()
def _expect(model: Any, prompt: Prompt, *, num_tokens: int) -> Expected:
    """Greedy tokens by a plain loop: generate() would apply the model's own generation config."""
    tokens: list[int] = []
    output = model(torch.tensor([prompt.ids]), use_cache=True)
    logits = [output.logits[0]]
    while True:
        tokens.append(int(logits[-1][-1].argmax()))
        if len(tokens) == num_tokens:
            return Expected(prompt, tuple(tokens), torch.cat(logits).float())
        output = model(torch.tensor([[tokens[-1]]]), past_key_values=output.past_key_values, use_cache=True)
        logits.append(output.logits[0])
