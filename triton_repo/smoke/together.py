"""Clients that ask at the same time are answered as they are alone: the comparison, over whatever protocol.

What is asked, and how, is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from triton_repo.smoke.check import expect_equal

NUM_PROMPTS = 4
Question = TypeVar("Question", bound=Hashable)


def clients_of(questions: Sequence[Question], *, num_clients: int) -> list[Question]:
    """What each client asks: the first few questions, over and over."""
    several = questions[:NUM_PROMPTS]
    return [several[index % len(several)] for index in range(num_clients)]


def expect_same_together(
    questions: Sequence[Question],
    *,
    alone: Callable[[Question], object],
    ask: Callable[[Question], object],
    named: Callable[[Question], str] = lambda _question: "",
) -> None:
    """Ask all at once, a client a question, after each has been asked alone.

    `named` is what the failure adds to the client's number.

    Raises:
        Failed: an answer is not the one that the question gets alone.
    """
    expected = {question: alone(question) for question in questions}
    with ThreadPoolExecutor(len(questions)) as pool:
        together = list(pool.map(ask, questions))
    for index, (question, found) in enumerate(zip(questions, together, strict=True)):
        what = f"answer of client {index} of {len(questions)}{named(question)}"
        expect_equal(found, expected[question], what=what)
