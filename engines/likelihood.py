"""How probable an engine finds a text after another, and what it says until a stop: what benchmarks ask for.

By the reference runtime, one request after another. It knows no benchmark;
`engines.lm_eval_tasks` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.reference import Decode, load_config, open_executor
from engines.reference.batches import Logits, Prefill
from tpforge.closing import Closing


@dataclass(frozen=True)
class Likelihood:
    """The log-probability (natural) of a continuation, and whether greedy decoding would have said it."""

    log_prob: float
    is_greedy: bool


class LikelihoodModel(Closing):
    """An engine that is open for questions; close it, or use it as a context.

    Raises:
        EngineError: the engine cannot be executed here.
    """

    def __init__(self, engine_dir: Path) -> None:
        from tokenizers import Tokenizer

        self.tokenizer: Any = Tokenizer.from_file(str(engine_dir / "tokenizer" / "tokenizer.json"))
        self.config = load_config(engine_dir)
        self.max_length = self.config.limits.max_seq_len
        self._executor = open_executor(
            self.config, kind="auto", device="auto", compute_dtype="auto", num_slots=1
        )

    def close(self) -> None:
        """End the ranks."""
        self._executor.close()

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """The tokens of a text, with those that the tokenizer puts before it unless told otherwise."""
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def continuation(self, context: str, continuation: str) -> Likelihood:
        """The likelihood of a text after another; blanks at the end of the context belong to what follows.

        What does not fit the engine is cut at the left of the context.
        """
        trailing = len(context) - len(context.rstrip())
        if trailing:
            context, continuation = context[:-trailing], context[-trailing:] + continuation
        if not context:
            tokens = [self._begin(), *self.encode(continuation, special=False)]
            return self._score(tokens, first=1)
        tokens, first = self.encode(context + continuation), len(self.encode(context))
        return self._score(tokens, first=first)

    def rolling(self, text: str) -> float:
        """The log-probability of a whole text, window after window, each token predicted once."""
        tokens = [self._begin(), *self.encode(text, special=False)]
        total, at = 0.0, 1
        while at < len(tokens):
            stop = min(len(tokens), at + self.max_length - 1)
            window = tokens[max(0, stop - self.max_length) : stop]
            total += self._score(window, first=len(window) - (stop - at)).log_prob
            at = stop
        return total

    def generate(self, context: str, *, until: Sequence[str], max_tokens: int) -> str:
        """The greedy answer up to the first of `until`, which is left out."""
        prompt = self.encode(context)[-(self.max_length - max_tokens) :]
        tokens: list[int] = []
        logits = self._executor.forward(Prefill(slot=0, start=0, tokens=tuple(prompt)))
        while True:
            assert logits is not None
            token = int(logits[-1].argmax())
            if token in self.config.end_ids:
                break
            tokens.append(token)
            text = str(self.tokenizer.decode(tokens))
            if found := [text.index(stop) for stop in until if stop and stop in text]:
                return text[: min(found)]
            if len(tokens) == max_tokens:
                break
            position = len(prompt) + len(tokens) - 1
            logits = self._executor.forward(Decode(tokens=(token,), positions=(position,)))
        return str(self.tokenizer.decode(tokens))

    def _begin(self) -> int:
        """The token that a text without context follows: the one that ends the text before it."""
        if self.config.end_ids:
            return self.config.end_ids[0]
        return 0

    def _score(self, tokens: Sequence[int], *, first: int) -> Likelihood:
        """The likelihood of tokens[first:] after those before them."""
        cut = max(0, len(tokens) - self.max_length)
        tokens, first = tokens[cut:], max(1, first - cut)
        if first >= len(tokens):
            return Likelihood(0.0, True)
        batch = Prefill(slot=0, start=0, tokens=tuple(tokens), logits=Logits.ALL)
        logits = self._executor.forward(batch)
        assert logits is not None
        return _likelihood(logits[first - 1 : -1], tokens[first:])


def _likelihood(logits: Tensor, tokens: Sequence[int]) -> Likelihood:
    """Of `tokens`, each predicted by a row of `logits` [tokens, vocab]."""
    log_probs = logits.double().log_softmax(-1)
    wanted = torch.tensor(tokens)
    chosen = log_probs.gather(1, wanted[:, None])
    return Likelihood(float(chosen.sum()), bool((log_probs.argmax(-1) == wanted).all()))
