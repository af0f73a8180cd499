"""From stamps and raw bytes to samples: when a repeat is over and nobody waits, each request is read once.

It computes no metric, and counts no token; `counting` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tpforge.measure.runs.run import Repeat
from tpforge.measure.runs.samples import Sample
from triton_repo.load.counting import Counting, Output
from triton_repo.load.exchange import Exchange, Reading, Target, TokenSource
from triton_repo.load.runner import Extent, Repetition


@dataclass(frozen=True)
class ReadRepeat:
    """The samples of one repeat; `record` is None when nothing was measured, as in a broken-off warmup.

    `is_whole` is false where its time ended it in the middle of a pass over the prompts.
    """

    samples: tuple[Sample, ...]
    record: Repeat | None
    token_source: TokenSource
    is_whole: bool


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
    inputs = counting.input_tokens([exchange.prompt.text for exchange in exchanges], readings)
    outputs = counting.output_tokens(readings)
    samples = tuple(
        _sample(exchange, reading, begun=repetition.begun, place=(level, repeat), tokens=tokens)
        for exchange, reading, tokens in zip(
            exchanges, readings, zip(inputs, outputs, strict=True), strict=True
        )
    )
    record = _record(repetition, samples, extent)
    return ReadRepeat(samples, record, counting.source(readings), repetition.is_whole)


def _sample(
    exchange: Exchange,
    reading: Reading,
    *,
    begun: float,
    place: tuple[int, int],
    tokens: tuple[int | None, Output],
) -> Sample:
    def since(stamp: float | None) -> float | None:
        return None if stamp is None else round(stamp - begun, 9)

    times = tuple(round(piece.at - begun, 9) for piece in reading.pieces)
    failure = reading.failure
    expected = exchange.prompt.max_tokens
    input_tokens, output = tokens
    finish = reading.finish_reason
    if finish is None and failure is None and expected is not None and output.num_tokens == expected:
        finish = "length"
    return Sample(
        level=place[0],
        repeat=place[1],
        index=exchange.index,
        phase=exchange.phase,
        prompt_id=exchange.prompt.id,
        scheduled_s=round(exchange.scheduled - begun, 9),
        sent_s=since(exchange.sent),
        first_token_s=times[0] if times else None,
        token_times_s=times,
        tokens_per_response=output.per_response,
        last_s=times[-1] if times else since(exchange.ended) if failure is None else None,
        ended_s=since(exchange.ended),
        input_tokens=input_tokens,
        output_tokens=output.num_tokens,
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
    return Repeat(
        started=repetition.started,
        warmup_s=extent.warmup_s,
        duration_s=max(0.0, round(_end_of_load(repetition, measured) - extent.warmup_s, 9)),
        counted_by=repetition.counted_by,
        num_requests=len(measured),
        num_completed=sum(sample.is_complete for sample in measured),
        interrupted=repetition.interrupted,
    )


def _end_of_load(repetition: Repetition, measured: Sequence[Sample]) -> float:
    """When the window ends: with the load, else with the last answer, or failure, of what was measured."""
    if repetition.load_ended is not None:
        return repetition.load_ended - repetition.begun
    ends = (sample.last_s if sample.is_complete else sample.ended_s for sample in measured)
    return max((end for end in ends if end is not None), default=0.0)
