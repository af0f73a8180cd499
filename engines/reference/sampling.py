"""From logits to the next token of one request, with the options and defaults of TensorRT-LLM.

It knows one request at a time; batching is the executor's. Source of names, defaults and order
(temperature, then repetition, presence and frequency penalty over prompt and output, then min_tokens
and bad words): TensorRT-LLM 1.2, SamplingConfig and penaltyKernels. All of it is computed in float64, in
which nothing that a float32 field can hold makes a logit infinite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_INT32_MAX = 2**31 - 1
_FLOAT32_MIN, _FLOAT32_MAX = 2.0**-149, torch.finfo(torch.float32).max


class RequestError(ValueError):
    """A request is refused; `field` is the tensor's name in the tensorrt_llm model's contract."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class NoToken(ValueError):
    """A request cannot continue: its logits, or its own options, leave no token to choose."""


@dataclass(frozen=True)
class Sampling:
    """How one request is decoded; the defaults are greedy.

    `end_id` None is all of the model's end tokens, -1 is none. top_k 0 and top_p 0 mean greedy, as does
    temperature 0. `stop_words` end the request after they
    appear (and stay in the output); `bad_words` never appear. `banned` gives the tokens that must not follow
    the output so far, whatever the reason. Log probabilities are of the distribution
    after temperature and penalties, before top_k and top_p.
    """

    max_tokens: int
    end_id: int | None = None
    pad_id: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    min_tokens: int = 0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    stop_words: tuple[tuple[int, ...], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    banned: Callable[[Sequence[int]], Sequence[int]] | None = None
    return_log_probs: bool = False

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is always taken."""
        return self.temperature == 0 or self.top_k == 1 or (self.top_k == 0 and self.top_p == 0)

    @property
    def is_plain(self) -> bool:
        """Whether the next token is the argmax of the raw logits, whatever came before."""
        return (
            self.is_greedy
            and not self.return_log_probs
            and not self.bad_words
            and self.banned is None
            and self.min_tokens == 0
            and (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) == (1.0, 0.0, 0.0)
        )

    def check(self, *, vocab_size: int) -> None:
        """Refuse values that no distribution can be made of.

        Raises:
            RequestError: names the first field that is out of range.
        """
        for field, value, good, expected in (*self._whole_numbers(), *self._fractions()):
            if not good:
                raise RequestError(field, f"found {value}, expected {expected}")
        for field, words in (("stop_words_list", self.stop_words), ("bad_words_list", self.bad_words)):
            strays = sorted({token for word in words for token in word if not 0 <= token < vocab_size})
            if strays:
                raise RequestError(field, f"token ids {strays} are outside the vocabulary of {vocab_size}")
            if any(not word for word in words):
                raise RequestError(field, "holds an empty word")

    def _whole_numbers(self) -> Iterator[tuple[str, float, bool, str]]:
        """Each field with its value, whether that is good, and what is."""
        yield ("request_output_len", self.max_tokens, 1 <= self.max_tokens <= _INT32_MAX, "1 or more")
        yield ("min_tokens", self.min_tokens, 0 <= self.min_tokens <= _INT32_MAX, "0 or more")
        yield ("runtime_top_k", self.top_k, 0 <= self.top_k <= _INT32_MAX, "0 or more")
        if self.seed is not None:
            yield ("seed", self.seed, 0 <= self.seed < 2**64, "0 to 2**64 - 1")

    def _fractions(self) -> Iterator[tuple[str, float, bool, str]]:
        top_p, temperature, repetition = self.top_p, self.temperature, self.repetition_penalty
        yield ("runtime_top_p", top_p, 0 <= top_p <= 1, "0 to 1")
        good = temperature == 0 or _FLOAT32_MIN <= temperature <= _FLOAT32_MAX
        yield ("temperature", temperature, good, "0 or more, as a float32")
        good = _FLOAT32_MIN <= repetition <= _FLOAT32_MAX
        yield ("repetition_penalty", repetition, good, "more than 0, as a float32")
        for field, penalty in (
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ):
            yield (field, penalty, abs(penalty) <= _FLOAT32_MAX, "a finite float32")


class Sampler:
    """The sampling state of one request: what it has said, and its random generator."""

    def __init__(self, sampling: Sampling, prompt: list[int], *, end_ids: tuple[int, ...]) -> None:
        self.sampling = sampling
        self.end_ids = end_ids
        self.output: list[int] = []
        self._tail = list(prompt)
        self._generator = torch.Generator().manual_seed((sampling.seed or 0) % 2**64)
        self._counts: Tensor | None = None

    def pick(self, logits: Tensor) -> tuple[int, float]:
        """The next token and its log probability (0.0 unless asked for); `logits` is [vocab], float32.

        Raises:
            NoToken: the logits are not numbers, or bad words and min_tokens forbid every token.
        """
        sampling = self.sampling
        best, token = logits.max(-1)
        refuse_not_finite(float(best))
        if sampling.is_plain:
            return int(token), 0.0
        processed = self._process(logits)
        best, token = processed.max(-1)
        if not math.isfinite(float(best)):
            raise NoToken("bad_words and min_tokens leave no token to choose from")
        chosen = int(token) if sampling.is_greedy else self._draw(processed)
        log_prob = float(processed.log_softmax(-1)[chosen]) if sampling.return_log_probs else 0.0
        return chosen, max(log_prob, -_FLOAT32_MAX)

    def accept(self, token: int) -> None:
        """Record a token that was picked and is part of the output."""
        self.output.append(token)
        self._tail.append(token)
        if self._counts is not None:
            self._counts[token] += 1

    def ends_with_stop_word(self) -> bool:
        """Whether the output now ends with one of the stop words."""
        return any(self.output[-len(word) :] == list(word) for word in self.sampling.stop_words)

    def _process(self, logits: Tensor) -> Tensor:
        sampling, processed = self.sampling, logits.double()
        if sampling.temperature not in (0, 1):
            processed /= sampling.temperature
        self._penalize(processed)
        if len(self.output) < sampling.min_tokens:
            processed[list(self.end_ids)] = -torch.inf
        for word in sampling.bad_words:
            prefix = list(word[:-1])
            if not prefix or self._tail[-len(prefix) :] == prefix:
                processed[word[-1]] = -torch.inf
        if sampling.banned is not None:
            processed[list(sampling.banned(self.output))] = -torch.inf
        return processed

    def _penalize(self, logits: Tensor) -> None:
        sampling = self.sampling
        if (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (1, 0, 0):
            return
        if self._counts is None:
            self._counts = torch.bincount(torch.tensor(self._tail), minlength=logits.shape[0]).double()
        seen = self._counts > 0
        repeated = torch.where(
            logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty
        )
        logits.copy_(torch.where(seen, repeated, logits))
        logits -= seen * sampling.presence_penalty + self._counts * sampling.frequency_penalty

    def _draw(self, logits: Tensor) -> int:
        """Sample from the top_k most probable tokens, cut to the fewest that reach top_p."""
        sampling = self.sampling
        count = min(sampling.top_k or logits.shape[0], logits.shape[0])
        values, tokens = torch.topk(logits, count)
        probabilities = values.softmax(-1).float()
        if 0 < sampling.top_p < 1:
            before = probabilities.cumsum(-1) - probabilities
            probabilities = torch.where(before < sampling.top_p, probabilities, 0.0)
        choice = torch.multinomial(probabilities, 1, generator=self._generator)
        return int(tokens[choice])


def refuse_not_finite(best: float) -> None:
    """Refuse a row of logits by its largest: NaN when one is NaN, infinite when one is, or when all are -inf.

    Raises:
        NoToken: it is not a finite number.
    """
    if not math.isfinite(best):
        raise NoToken(f"the model computed no usable logits (the largest is {best}); no token can be chosen")
