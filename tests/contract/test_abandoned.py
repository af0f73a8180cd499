"""Requests whose clients have gone: each is found whatever its id, costs nothing more, and no other ends.

The models run in this process; that Triton tells postprocessing of a cancellation is e2e's to show.
"""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from tests.contract.asking import prompt, tensors
from tests.contract.fake_triton import TIMEOUT_S, Request, Sent, Server
from tests.contract.test_generation import active
from tests.support.patience import wait_until


def start_stream(server: Server, request_id: str) -> tuple[Request, Sent]:
    """A stream of tensorrt_llm as an ensemble's step, too long to end by itself, and its first chunk."""
    request = prompt(
        [10, 20], request_output_len=300, end_id=-1, streaming=True, decoder_input_ids=[0],
        decoder_input_lengths=1,
    )  # fmt: skip
    request.id = request_id
    server.start("tensorrt_llm", request)
    return request, request.sender.sent.get(timeout=TIMEOUT_S)


def decode(server: Server, chunk: Sent, *, is_gone: bool) -> Sent:
    """Postprocessing's step for a chunk; as the ensemble maps its tensors, and tells of its client."""
    request = Request(
        {
            "TOKENS_BATCH": chunk.tensors["output_ids"],
            "SEQUENCE_LENGTH": chunk.tensors["sequence_length"],
        }
    )
    request.sender.cancelled = is_gone
    return list(server.run("postprocessing", request))[-1]


def decode_abandoned(server: Server, chunk: Sent) -> Sent:
    """Postprocessing's step for a chunk whose client has gone away."""
    return decode(server, chunk, is_gone=True)


@pytest.mark.parametrize("gone", [0, 1, 2], ids=["without an id", "of an id twice", "of the same id"])
def test_postprocessing_stops_the_stream_that_nobody_listens_to_and_no_other(
    server: Server, gone: int
) -> None:
    streams = [start_stream(server, request_id) for request_id in ("", "c", "c", "d")]
    request, chunk = streams.pop(gone)

    decoded = decode_abandoned(server, chunk)

    assert decoded.error is None
    assert list(request.sender.until_final())[-1].error is None
    wait_until(lambda: active() == len(streams))
    for other, _ in streams:
        other.sender.cancelled = True
        assert list(other.sender.until_final())[-1].final


def test_the_mark_of_a_stream_is_no_token_and_no_part_of_its_text(server: Server) -> None:
    request, chunk = start_stream(server, "")
    length = int(chunk.tensors["sequence_length"].flat[0])
    tokens = chunk.tensors["output_ids"].reshape(-1).tolist()
    tokens, mark = tokens[:length], tokens[length:]
    assert len(mark) == 2
    assert max(mark) < 0 <= min(tokens)

    whole = decode_abandoned(server, chunk).tensors["OUTPUT"].tolist()
    bare = Request(tensors("postprocessing", TOKENS_BATCH=tokens, SEQUENCE_LENGTH=[length]))
    assert next(server.run("postprocessing", bare)).tensors["OUTPUT"].tolist() == whole
    list(request.sender.until_final())


@pytest.mark.parametrize(
    "asked",
    [
        {"streaming": True},
        {"decoder_input_ids": [0], "decoder_input_lengths": 1},
    ],
    ids=["a client's own stream", "a whole answer of an ensemble"],
)
def test_only_streams_of_an_ensemble_are_marked(server: Server, asked: dict[str, object]) -> None:
    for sent in server.run("tensorrt_llm", prompt([10, 20], request_output_len=3, end_id=-1, **asked)):
        lengths = sent.tensors["sequence_length"]
        assert sent.tensors["output_ids"].shape[-1] == int(lengths.flat[0])


def test_what_a_client_writes_is_no_mark(server: Server) -> None:
    """An id that looks like a wish to stop, and tokens with something behind them, end no stream."""
    streams = [start_stream(server, "") for _ in range(2)]
    relay = importlib.import_module("serving.relay")
    for request_id in ("x" + relay.SEPARATOR + "abandoned", relay.abandoned_id((-1, -2)), "-1,-2"):
        asked = prompt([1], request_output_len=1, stop=True)
        asked.id = request_id
        assert list(server.run("tensorrt_llm", asked))[-1].error is None
    for behind in ([7], [7, 7], [-7], [-7, -7, -7]):
        chunk = Sent(
            {"output_ids": np.array([[[65, *behind]]], dtype=np.int32), "sequence_length": np.array([[1]])},
            None,
            final=False,
        )
        assert decode_abandoned(server, chunk).tensors["OUTPUT"].tolist() == [b"b"]
    assert active() == len(streams)
    for request, _ in streams:
        request.sender.cancelled = True
        list(request.sender.until_final())


def test_what_was_cancelled_before_a_model_begins_is_not_begun(server: Server) -> None:
    asked = (
        ("preprocessing", Request(tensors("preprocessing", QUERY=b"\xff", REQUEST_OUTPUT_LEN=0))),
        ("tensorrt_llm", prompt([10, 20], request_output_len=300, end_id=-1, streaming=True)),
    )
    for model, request in asked:
        request.sender.cancelled = True
        [sent] = server.run(model, request)
        assert (sent.code, sent.error) == ("CANCELLED", "the request was cancelled")
    assert active() == 0


def test_a_prompt_of_bls_that_was_cancelled_while_it_waited_is_not_begun(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = server.models["tensorrt_llm_bls"]
    monkeypatch.setattr(model, "_generate", lambda *_: pytest.fail("it was begun"))
    request = Request(tensors("tensorrt_llm_bls", text_input=b"the", max_tokens=300, stream=True))
    request.sender.cancelled = True
    [sent] = server.run("tensorrt_llm_bls", request)
    assert sent.error == "the request was cancelled"


def test_triton_is_asked_four_times_a_second_and_request_at_most(server: Server) -> None:
    asked: list[str] = []

    class Passing(Request):
        def is_cancelled(self) -> bool:
            asked.append(self.id)
            return False

    times = iter([0.0, 0.1, 0.1, 0.24, 0.26, 0.3])
    abandoned = importlib.import_module("serving.abandoned")
    watch = abandoned.Abandoned(model="tensorrt_llm", log_error=str, now=lambda: next(times))
    marks = {"a": (-1, -1), "b": (-1, -2), "": ()}
    for request_id in ("a", "a", "b", "a", "a", ""):
        watch.look(Passing({}, request_id), mark=marks[request_id])

    assert asked == ["a", "b", "a"]
