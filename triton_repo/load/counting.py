"""How many tokens an answer has, and each of its messages: the server's word, a tokenizer's, or an estimate.

It reads no bytes; `reading` and the targets do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tpforge.measure.runs.samples import Sample
from triton_repo.load.exchange import Reading, TokenSource

SEVERAL = 1.05
"""Above so many tokens a message on average, messages are not tokens."""

Count = Callable[[Sequence[str]], Sequence[int]]
"""The numbers of tokens of several texts."""


@dataclass(frozen=True)
class Output:
    """The tokens of an answer, and of each of its messages; no counts where a message is one token."""

    num_tokens: int
    per_response: tuple[int, ...] = ()


@dataclass(frozen=True)
class Counting:
    """Who counts tokens: the server where it tells of every answer, else the tokenizer, else one a message.

    `inputs` counts prompts with the special tokens that the server adds, `outputs` answers without any: a
    tokenizer sees the text alone, not the special tokens that were left out of it.
    """

    inputs: Count | None = None
    outputs: Count | None = None

    def source(self, readings: Sequence[Reading]) -> TokenSource:
        """Which of them counts the output tokens of these answers."""
        if any(piece.token_ids for reading in readings for piece in reading.pieces):
            return "server"
        answered = [reading for reading in readings if reading.failure is None]
        if answered and all(reading.output_tokens is not None for reading in answered):
            return "server"
        return "tokenizer" if self.outputs is not None else "responses"

    def input_tokens(self, texts: Sequence[str], readings: Sequence[Reading]) -> list[int | None]:
        """Of every prompt: the server's word where it tells, else by the tokenizer, else None."""
        different = sorted(set(texts))
        counts: Sequence[int | None] = self.inputs(different) if self.inputs else [None] * len(different)
        lengths = dict(zip(different, counts, strict=True))
        return [
            lengths[text] if reading.input_tokens is None else reading.input_tokens
            for text, reading in zip(texts, readings, strict=True)
        ]

    def output_tokens(self, readings: Sequence[Reading]) -> list[Output]:
        """Of every answer; of one that was broken off, what had come of it."""
        source = self.source(readings)
        counted: Sequence[int] | None = None
        if self.outputs is not None and source == "tokenizer":
            counted = self.outputs([reading.text for reading in readings])
        return [
            self._output(reading, source, counted[index] if counted is not None else None)
            for index, reading in enumerate(readings)
        ]

    def _output(self, reading: Reading, source: TokenSource, counted: int | None) -> Output:
        pieces = reading.pieces
        if any(piece.token_ids for piece in pieces):
            held = tuple(len(piece.token_ids or ()) for piece in pieces)
            return Output(sum(held), held)
        total = counted
        if total is None and source == "server":
            total = reading.output_tokens
        if total is None and self.outputs is not None:
            (total,) = self.outputs([reading.text])
        if total is None:
            total = sum(piece.num_tokens or 1 for piece in pieces)
        return Output(total, self._per_response(reading, total))

    def _per_response(self, reading: Reading, total: int) -> tuple[int, ...]:
        """The tokens of each message: as the server counted on, as the texts have them, else alike."""
        pieces = reading.pieces
        if not pieces or total <= len(pieces):
            return ()
        told = tuple(piece.num_tokens for piece in pieces if piece.num_tokens)
        if len(told) == len(pieces) and sum(told) == total:
            return told
        texts = [piece.text for piece in pieces]
        shown = max(len(pieces), total - reading.hidden_tokens)
        first, *later = spread(shown, self.outputs(texts) if self.outputs is not None else [1] * len(texts))
        return first + total - shown, *later


def spread(total: int, weights: Sequence[int]) -> tuple[int, ...]:
    """`total` in whole parts that are as large as `weights` say, at least one each; they add up to it.

    Each part ends where the exact sum of the weights so far, rounded, does. `total` is at least their number.
    """
    spare, whole, before, begun = total - len(weights), sum(weights), 0, 0
    parts = []
    for weight in weights:
        before += weight
        end = round(spare * before / whole) if whole else 0
        parts.append(1 + end - begun)
        begun = end
    parts[-1] += spare - begun
    return tuple(parts)


def counting_notes(source: TokenSource, samples: Sequence[Sample]) -> list[str]:
    """What someone should know of how the tokens of a run were counted."""
    notes = []
    if source == "responses":
        notes.append(
            "tokens are estimated, one a message: the server does not tell how many there were; name the "
            "model's tokenizer with --tokenizer"
        )
    num_empty = sum(one.is_complete and one.first_token_s is None for one in samples)
    if num_empty:
        notes.append(
            f"{num_empty} of {len(samples)} answers are empty: the model ended at once; they count as "
            "answers of no token, without a time to the first (a chat model wants --chat-template)"
        )
    streamed = [one for one in samples if one.is_complete and len(one.token_times_s) > 1]
    num_messages = sum(len(one.token_times_s) for one in streamed)
    num_tokens = sum(one.output_tokens or 0 for one in streamed)
    if num_messages and num_tokens > SEVERAL * num_messages:
        notes.append(
            f"a message held {num_tokens / num_messages:.2g} tokens on average: inter_chunk_latency is the "
            "time between messages; how many the first one held, which inter_token_latency needs, is the "
            "server's count where it tells, else the tokenizer's, else as if all held alike"
        )
    return notes
