"""The canary of checks at once: who waits for which answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from tests.support.patience import PATIENCE_S
from triton_repo.smoke.canary import Canary


def test_each_answer_is_of_a_question_that_was_asked_after_it_was_wanted() -> None:
    """One is being asked while three more want one: they share the next, and none takes the first."""
    numbers, wanted = count(1), threading.Semaphore(0)
    asked, go_on = threading.Event(), threading.Event()

    def ask() -> str:
        number = next(numbers)
        asked.set()
        assert go_on.wait(PATIENCE_S)
        return f"answer {number}"

    canary = Canary(ask)

    def want() -> str:
        wanted.release()
        return canary.answer()

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(canary.answer)
        assert asked.wait(PATIENCE_S)
        others = [pool.submit(want) for _ in range(3)]
        for _ in others:
            assert wanted.acquire(timeout=PATIENCE_S)
        go_on.set()
        assert first.result(PATIENCE_S) == "answer 1"
        assert {other.result(PATIENCE_S) for other in others} <= {"answer 2", "answer 3", "answer 4"}
    assert canary.answer() not in {"answer 1", "answer 2"}


def test_what_asking_raises_is_everybodys_who_waited_and_not_the_nexts() -> None:
    answers = iter([ValueError("gone"), "back"])

    def ask() -> str:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    canary = Canary(ask)
    with pytest.raises(ValueError, match="gone"):
        canary.answer()
    assert canary.answer() == "back"
