"""From stamps and raw bytes to samples: when a repeat is over and nobody waits, each request is read once.

It computes no metric. Which tokens count is said by `Counting`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tpforge.measure.run import Repeat
from tpforge.measure.samples import Sample
from triton_repo.load.exchange import Exchange, Reading, Target, TokenSource
from triton_repo.load.runner import Extent, Repetition

Count = Callable[[Sequence[str]], Sequence[int]]
"""The numbers of tokens of several texts."""


@dataclass(frozen=True)
class Counting:
    """Who counts tokens: the model's tokenizer where it is known, else the server, else one a response.

    `inputs` counts prompts with the special tokens that the server adds, `outputs` answers without any.
    """

    inputs: Count | None = None
    outputs: Count | None = None

    def source(self, readings: Sequence[Reading]) -> TokenSource:
        """Which of them counts the output tokens of these answers."""
        if any(piece.token_ids for reading in readings for piece in reading.pieces):
            return "server"
        if self.outputs is not None:
            return "tokenizer"
        answered = [reading for reading in readings if reading.failure is None]
        told = answered and all(reading.output_tokens is not None for reading in answered)
        return "server" if told else "responses"


@dataclass(frozen=True)
class ReadRepeat:
    """The samples of one repeat; `record` is None when nothing was measured, as in a broken-off warmup."""

    samples: tuple[Sample, ...]
    record: Repeat | None
    token_source: TokenSource


def read_repetition(
    target: Target,
    repetition: Repetition,
    *,
    extent: Extent,
    level: int,
    repeat: int,
    counting: Counting,
) -> ReadRepeat:
    """One sample for every request that was due, failed or not."""
    exchanges = repetition.exchanges
    readings = [target.read(exchange) for exchange in exchanges]
    source = counting.source(readings)
    inputs = _input_tokens(exchanges, readings, counting)
    outputs = _output_tokens(readings, counting, source)
    samples = tuple(
        _sample(
            exchange,
            reading,
            begun=repetition.begun,
            level=level,
            repeat=repeat,
            input_tokens=num_inputs,
            output_tokens=num_outputs,
        )
        for exchange, reading, num_inputs, num_outputs in zip(
            exchanges, readings, inputs, outputs, strict=True
        )
    )
    return ReadRepeat(samples, _record(repetition, samples, extent), source)


def _sample(
    exchange: Exchange,
    reading: Reading,
    *,
    begun: float,
    level: int,
    repeat: int,
    input_tokens: int | None,
    output_tokens: int | None,
) -> Sample:
    def since(stamp: float | None) -> float | None:
        return None if stamp is None else round(stamp - begun, 9)

    times = tuple(round(piece.at - begun, 9) for piece in reading.pieces)
    failure = reading.failure
    expected = exchange.prompt.max_tokens
    finish = reading.finish_reason
    if finish is None and failure is None and expected is not None and output_tokens == expected:
        finish = "length"
    ids = [piece.token_ids for piece in reading.pieces]
    return Sample(
        level=level,
        repeat=repeat,
        index=exchange.index,
        phase=exchange.phase,
        prompt_id=exchange.prompt.id,
        scheduled_s=round(exchange.scheduled - begun, 9),
        sent_s=since(exchange.sent),
        first_token_s=times[0] if times else None,
        token_times_s=times,
        tokens_per_response=tuple(len(tokens) for tokens in ids if tokens),
        last_s=times[-1] if times else None,
        ended_s=since(exchange.ended),
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        expected_output_tokens=expected,
        finish_reason=finish,
        error_kind=failure.kind if failure else None,
        error=failure.message if failure else None,
        output_text=reading.text,
    )


def _record(repetition: Repetition, samples: Sequence[Sample], extent: Extent) -> Repeat | None:
    measured = [sample for sample in samples if sample.phase == "measured"]
    if not measured:
        return None
    complete = [sample for sample in measured if sample.is_complete]
    ends = [sample.last_s for sample in complete] or [sample.ended_s for sample in measured]
    end_s = max((end for end in ends if end is not None), default=extent.warmup_s)
    return Repeat(
        started=repetition.started,
        duration_s=max(0.0, end_s - extent.warmup_s),
        num_requests=len(measured),
        num_completed=len(complete),
        interrupted=repetition.interrupted,
    )


def _input_tokens(
    exchanges: Sequence[Exchange], readings: Sequence[Reading], counting: Counting
) -> list[int | None]:
    if counting.inputs is None:
        return [reading.input_tokens for reading in readings]
    texts = sorted({exchange.prompt.text for exchange in exchanges})
    lengths = dict(zip(texts, counting.inputs(texts), strict=True))
    return [lengths[exchange.prompt.text] for exchange in exchanges]


def _output_tokens(readings: Sequence[Reading], counting: Counting, source: TokenSource) -> list[int | None]:
    if source == "tokenizer" and counting.outputs is not None:
        return [*counting.outputs([reading.text for reading in readings])]
    if source == "responses":
        return [len(reading.pieces) for reading in readings]
    return [_server_count(reading) for reading in readings]


def _server_count(reading: Reading) -> int | None:
    """The tokens that the server sent or says it has made."""
    if any(piece.token_ids for piece in reading.pieces):
        return sum(len(piece.token_ids or ()) for piece in reading.pieces)
    return reading.output_tokens
