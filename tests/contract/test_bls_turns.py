"""Many prompts of tensorrt_llm_bls at once: how many call other models, in which order, who is never begun.

The models run in this process; the 32 threads of the real backend are e2e's and the drills' to show.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.asking import alone, tensors
from tests.contract.conftest import Render, loaded
from tests.contract.fake_triton import TIMEOUT_S, Request, Server
from tests.support.patience import wait_until

THREADS_OF_THE_BACKEND = 32
"""Of triton-inference-server/python_backend r24.10, src/python_be.cc: thread_pool_size."""


class Door:
    """Stands in for the calls of tensorrt_llm: none comes back before it is opened."""

    def __init__(self, members: Any) -> None:
        self._responses, self.open = members._responses, threading.Event()
        self.inside, self.most, self.begun = 0, 0, list[str]()
        self._lock = threading.Lock()
        members._responses = self._call

    def _call(self, request: Any) -> Iterator[Any]:
        with self._lock:
            self.begun.append(request._request.id)
            self.inside += 1
            self.most = max(self.most, self.inside)
        assert self.open.wait(TIMEOUT_S)
        responses = list(self._responses(request))
        with self._lock:
            self.inside -= 1
        return iter(responses)


def asked(number: int) -> Request:
    values = {"text_input": b"the", "max_tokens": 2, "stream": True}
    return Request(tensors("tensorrt_llm_bls", **alone(values)), id=f"r{number}")


def test_calls_leave_the_backend_threads_for_responses_and_those_who_left_are_never_begun(
    server: Server,
) -> None:
    members = server.models["tensorrt_llm_bls"]._members
    most = importlib.import_module("serving.turns").MAX_CALLS
    assert most < THREADS_OF_THE_BACKEND
    door = Door(members)
    # Prompts are made ready one at a time here, so that they wait in the order in which they were asked.
    requests = [asked(number) for number in range(most + 6)]
    for number, request in enumerate(requests[:most], start=1):
        server.start("tensorrt_llm_bls", request)
        wait_until(lambda number=number: len(door.begun) == number)  # type: ignore[misc]
    for request in requests[most:]:
        server.start("tensorrt_llm_bls", request)
    gone = requests[most : most + 5]
    for request in gone:
        request.sender.cancelled = True

    ends = [list(request.sender.until_final()) for request in gone]
    assert [[sent.error for sent in end] for end in ends] == [["the request was cancelled"]] * 5
    assert door.inside == most

    door.open.set()
    others = [request for request in requests if request not in gone]
    assert [list(request.sender.until_final())[-1].error for request in others] == [None] * len(others)
    assert door.most == most
    assert not {request.id for request in gone} & {begun.split("\x1f")[0] for begun in door.begun}


def test_turns_come_in_order_and_pass_over_those_who_left(server: Server) -> None:
    turns = importlib.import_module("serving.turns")
    found, order = turns.Turns(1), list[str]()
    left = {"b": threading.Event()}
    threads = []

    def take(name: str) -> None:
        try:
            with found.take(lambda: name in left and left[name].is_set()):
                order.append(name)
        except turns.Gone:
            order.append(f"{name} left")

    with found.take(lambda: False):
        for number, name in enumerate("abc", start=1):
            threads.append(threading.Thread(target=take, args=(name,), daemon=True))
            threads[-1].start()
            wait_until(lambda number=number: len(found._waiting) == number)  # type: ignore[misc]
        left["b"].set()
        wait_until(lambda: order == ["b left"])
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert order == ["b left", "a", "c"]
    with pytest.raises(ZeroDivisionError), found.take(lambda: False):
        raise ZeroDivisionError
    with found.take(lambda: True):
        order.append("free at once")
    assert order[-1] == "free at once"


def test_a_full_queue_refuses_before_anything_is_asked_and_takes_others_when_it_has_room(
    render_tiny: Render,
) -> None:
    with loaded(render_tiny(max_queue_size=2)) as running:
        door = Door(running.models["tensorrt_llm_bls"]._members)
        slots = running.configs["tensorrt_llm_bls"]["max_batch_size"]
        let_in = [asked(number) for number in range(slots + 2)]
        for request in let_in:
            running.start("tensorrt_llm_bls", request)
        batch = Request(tensors("tensorrt_llm_bls", text_input=[[b"a"], [b"b"]], max_tokens=[[2], [2]]))
        for request in (refused := [asked(99), batch]):
            running.start("tensorrt_llm_bls", request)
        ends = [list(request.sender.until_final())[-1] for request in refused]
        assert [sent.code for sent in ends] == ["UNAVAILABLE", "UNAVAILABLE"]
        assert ends[0].error == "the queue is full: 2 requests wait"
        door.open.set()
        assert [list(one.sender.until_final())[-1].error for one in let_in] == [None] * len(let_in)
        again = asked(100)
        running.start("tensorrt_llm_bls", again)
        assert list(again.sender.until_final())[-1].error is None
        assert not any(begun.startswith("r99") for begun in door.begun)
