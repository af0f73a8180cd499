"""Streams whose clients went while they waited: found before their prompts are computed, no other stopped.

The models run in this process; what Triton tells postprocessing of a cancellation is e2e's to show.
"""

from __future__ import annotations

import importlib
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tests.contract.asking import prompt
from tests.contract.fake_triton import TIMEOUT_S, Sent, Server
from tests.contract.test_abandoned import decode, start_stream


class Held:
    """A server's scheduler that makes a few tokens and no more, and begins no prompt once it is closed."""

    def __init__(self, server: Server) -> None:
        self._scheduler: Any = server.models["tensorrt_llm"]._scheduler._scheduler
        self._own = {name: getattr(self._scheduler, name) for name in ("_decode", "_next_prompt")}
        self._left = 20
        self._scheduler._decode = self._decode

    def _decode(self, executor: object) -> None:
        self._left -= 1
        (self._own["_decode"] if self._left > 0 else self._nothing)(executor)

    def close(self) -> None:
        self._scheduler._next_prompt = self._nothing

    def release(self) -> None:
        vars(self._scheduler).update(self._own)

    @staticmethod
    def _nothing(*_: object) -> None:
        time.sleep(0.005)  # the scheduler's thread asks again at once


def length(sent: Sent) -> int:
    """How many tokens a response holds."""
    return int(sent.tensors["sequence_length"].flat[0])


def test_streams_that_wait_are_asked_once_some_were_abandoned_and_only_the_gone_ones_end(
    server: Server,
) -> None:
    held = Held(server)
    first = [start_stream(server, "") for _ in range(2)]
    held.close()
    gone, there = (
        prompt(
            [10, 20], request_output_len=3, end_id=-1, streaming=True, decoder_input_ids=[0],
            decoder_input_lengths=1,
        )
        for _ in range(2)
    )  # fmt: skip
    own, whole = (prompt([10, 20], request_output_len=3, end_id=-1, streaming=one) for one in (True, False))
    for request in (gone, there, own, whole):
        server.start("tensorrt_llm", request)

    for _, chunk in first:
        decode(server, chunk, is_gone=True)
    asked = [request.sender.sent.get(timeout=TIMEOUT_S) for request in (gone, there)]
    assert [length(sent) for sent in asked] == [0, 0]
    texts = [
        decode(server, sent, is_gone=is_gone).tensors["OUTPUT"].tolist()
        for sent, is_gone in zip(asked, (True, False), strict=True)
    ]
    assert texts == [[b""], [b""]]

    # Nothing was begun for it: it ends while no prompt can be.
    *before, last = gone.sender.until_final()
    assert (last.error, [length(sent) for sent in (*before, last)]) == (None, [0])

    held.release()
    assert sum(length(sent) for sent in there.sender.until_final() if sent.tensors) == 3
    assert sum(length(sent) for sent in own.sender.until_final() if sent.tensors) == 3
    assert [length(sent) for sent in whole.sender.until_final()] == [3]


class Waiting(SimpleNamespace):
    """A sequence as the roll call knows it."""

    __hash__ = object.__hash__

    def __init__(self, *, mark: tuple[int, ...] = (-1, -2), streaming: bool = True) -> None:
        super().__init__(
            exchange=SimpleNamespace(mark=mark), item=SimpleNamespace(streaming=streaming), is_waiting=True
        )


@pytest.fixture
def called(server: Server) -> tuple[Any, list[Any], SimpleNamespace]:
    """A roll call, whom it asked, and its clock."""
    asked: list[Any] = []
    clock = SimpleNamespace(now=100.0)
    roll_call = importlib.import_module("serving.roll_call").RollCall(ask=asked.append, now=lambda: clock.now)
    return roll_call, asked, clock


def test_nobody_is_asked_before_two_were_abandoned_in_ten_seconds(called: Any) -> None:
    roll_call, asked, clock = called
    waiting = Waiting()
    roll_call.add(waiting)
    for at_s in (101.0, 112.0, 123.0):
        clock.now = at_s
        roll_call.found()
        roll_call.call()
    assert asked == []
    clock.now += 9.0
    roll_call.found()
    roll_call.call()
    assert asked == [waiting]


def test_only_marked_streams_that_have_waited_for_a_second_are_asked_and_each_once(called: Any) -> None:
    roll_call, asked, clock = called
    old, begun = Waiting(), Waiting()
    for one in (old, begun, Waiting(mark=()), Waiting(streaming=False)):
        roll_call.add(one)
    clock.now += 1.5
    roll_call.add(young := Waiting())
    begun.is_waiting = False
    roll_call.found()
    roll_call.found()
    roll_call.call()
    roll_call.call()
    assert asked == [old]
    clock.now += 1.0
    roll_call.found()
    roll_call.call()
    assert asked == [old]
    roll_call.found()
    roll_call.call()
    assert asked == [old, old, young]


def test_what_was_found_before_anybody_had_waited_counts_once_somebody_has(called: Any) -> None:
    roll_call, asked, clock = called
    roll_call.add(waiting := Waiting())
    roll_call.found()
    roll_call.found()
    roll_call.call()
    assert asked == []
    clock.now += 1.0
    roll_call.call()
    assert asked == [waiting]
