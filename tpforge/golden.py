"""Which tokens of a golden answer every right server gives, by the dtype that it computes in.

It measures nothing; `verify` has measured the margins of the tokens and what rounding does to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from tpforge.dtypes import DType
from tpforge.manifest import GoldenAnswer, Parity

_CERTAIN = 2.0
"""A margin decides when it is more than this many times the largest error of a margin that was measured."""


@dataclass(frozen=True)
class Run:
    """Tokens of an answer that follow each other: where they begin, and how many there are."""

    start: int
    count: int


def margin_error(parity: Parity | None, *, compute_dtype: DType) -> float | None:
    """The largest error of a margin in a dtype; None when it was not measured.

    float16 has three more bits than bfloat16, whose errors stand for its own where those were not measured.
    """
    known = {one.compute_dtype: one.max_margin_error for one in (parity.rounding if parity else ())}
    if compute_dtype not in known and compute_dtype is DType.FLOAT16:
        return known.get(DType.BFLOAT16)
    return known.get(compute_dtype)


def decisive_tokens(answer: GoldenAnswer, *, parity: Parity | None, compute_dtype: DType) -> tuple[bool, ...]:
    """Of every token, whether rounding in `compute_dtype` cannot change it.

    Answers whose margins were not kept are judged in float32 alone, by the number that was.
    """
    error = margin_error(parity, compute_dtype=compute_dtype)
    if answer.margins and error is not None:
        return tuple(
            margin > _CERTAIN * error for margin, _ in zip(answer.margins, answer.token_ids, strict=True)
        )
    count = answer.num_decisive if compute_dtype is DType.FLOAT32 else 0
    return tuple(place < count for place in range(len(answer.token_ids)))


def first_run(decisive: tuple[bool, ...]) -> Run:
    """The decisive tokens that the answer begins with."""
    return Run(0, decisive.index(False) if False in decisive else len(decisive))


def longest_run(decisive: tuple[bool, ...]) -> Run:
    """The longest run of decisive tokens, the first of several; of 0 tokens when none is decisive."""
    best, place = Run(0, 0), 0
    for is_decisive, group in groupby(decisive):
        count = len(list(group))
        if is_decisive and count > best.count:
            best = Run(place, count)
        place += count
    return best
