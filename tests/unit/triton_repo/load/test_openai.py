"""Load over OpenAI-compatible HTTP, held against a server that writes down what it did."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.servers.scripted import Running
from tests.support.servers.scripted_openai import HttpScript, scripted_openai
from tpforge.errors import UsageError
from tpforge.measure.runs.prompts import Prompt
from tpforge.measure.runs.samples import Sample
from triton_repo.load.counting import Counting
from triton_repo.load.exchange import Exchange, Reading
from triton_repo.load.http_stream import Endpoint, MalformedAnswer, parse_answer
from triton_repo.load.openai_target import OpenAiOptions, OpenAiTarget, events_of
from triton_repo.load.reading import read_repetition
from triton_repo.load.runner import Extent, Repetition, run_repetition
from triton_repo.load.schedule import Closed

TOKENS = 10
PROMPTS = (Prompt(id="a", text="héllo", max_tokens=TOKENS),)


def put(
    server: Running, *, num_requests: int, concurrency: int = 1, **options: object
) -> tuple[Repetition, tuple[Sample, ...]]:
    target = OpenAiTarget(server.url, "m", options=OpenAiOptions(**options))  # type: ignore[arg-type]
    extent = Extent(num_requests=num_requests)

    async def run() -> Repetition:
        target.prepare(PROMPTS)
        return await run_repetition(
            target, Closed(concurrency), PROMPTS, extent=extent, interrupt=asyncio.Event()
        )

    found = asyncio.run(run())
    read = read_repetition(target, found, extent=extent, level=0, repeat=0, counting=Counting())
    return found, read.samples


def kinds(samples: Sequence[Sample]) -> list[str | None]:
    return [sample.error_kind for sample in samples]


@pytest.mark.parametrize("chat", [False, True])
def test_no_event_is_stamped_before_it_was_sent(tmp_path: Path, chat: bool) -> None:
    with scripted_openai(tmp_path) as server:
        found, samples = put(server, num_requests=8, concurrency=2, chat=chat)
        sent = sorted(server.sent())
    times = sorted([at + found.begun for at in sample.token_times_s] for sample in samples)
    delays = [a - b for got, own in zip(times, sent, strict=True) for a, b in zip(got, own, strict=True)]
    # That nothing else comes before the stamp is shown on a virtual clock, in tests/contract/measuring.
    assert min(delays) > 0
    assert {sample.output_text for sample in samples} == {"".join(f" w{n}" for n in range(TOKENS))}
    assert {(s.finish_reason, s.input_tokens, s.output_tokens) for s in samples} == {("length", 3, TOKENS)}


def test_event_in_two_parts_counts_when_it_is_whole(tmp_path: Path) -> None:
    with scripted_openai(tmp_path, HttpScript(split=True, itl_s=0.02)) as server:
        found, samples = put(server, num_requests=2)
        sent = sorted(server.sent())
    times = sorted([at + found.begun for at in sample.token_times_s] for sample in samples)
    delays = [a - b for got, own in zip(times, sent, strict=True) for a, b in zip(got, own, strict=True)]
    assert min(delays) > 0.004
    assert kinds(samples) == [None, None]


def test_whole_answer_is_one_piece(tmp_path: Path) -> None:
    with scripted_openai(tmp_path) as server:
        _, (sample,) = put(server, num_requests=1, streaming=False, chat=True)
    assert len(sample.token_times_s) == 1
    assert (sample.output_tokens, sample.finish_reason, sample.error_kind) == (TOKENS, "length", None)


def test_refusals_and_cut_answers_are_counted_apart(tmp_path: Path) -> None:
    with scripted_openai(tmp_path, HttpScript(ttft_s=0.0, itl_s=0.0, refuse_every=3, cut_every=4)) as server:
        _, samples = put(server, num_requests=12)
    expected = ["refused" if n % 3 == 0 else "broken" if n % 4 == 0 else None for n in range(1, 13)]
    assert kinds(samples) == expected
    refused = samples[2].error
    assert refused is not None and "HTTP 400" in refused and "not this one" in refused
    assert len(samples[3].token_times_s) == TOKENS // 2, "what came before the break is kept"


def test_silence_ends_at_the_deadline_and_a_dead_server_is_unreachable(tmp_path: Path) -> None:
    with scripted_openai(tmp_path, HttpScript(ttft_s=60)) as server:
        _, samples = put(server, num_requests=1, deadline_s=0.3)
    assert kinds(samples) == ["timeout"]
    _, samples = put(Running("http://127.0.0.1:1", tmp_path, server.process), num_requests=1)
    assert kinds(samples) == ["unreachable"]


def test_request_is_the_one_that_another_parser_reads() -> None:
    """The bytes on the wire, read by the standard library's parser of messages."""
    target = OpenAiTarget(
        "http://host:9/v1",
        "m",
        options=OpenAiOptions(sampling={"temperature": 0.5}, headers={"Authorization": "Bearer k"}),
    )
    target.prepare([Prompt(id="a", text="héllo", max_tokens=4, min_tokens=4)])
    raw = target._requests["a"]
    head, body = raw.split(b"\r\n\r\n", 1)
    line, fields = head.split(b"\r\n", 1)
    assert line == b"POST /v1/completions HTTP/1.1"
    message = http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
    assert int(message["Content-Length"]) == len(body)
    assert (message["Host"], message["Connection"], message["Authorization"]) == (
        "host:9",
        "close",
        "Bearer k",
    )
    assert json.loads(body) == {
        "model": "m", "stream": True, "prompt": "héllo", "max_tokens": 4, "min_tokens": 4, "ignore_eos": True,
        "stream_options": {"include_usage": True}, "temperature": 0.5,
    }  # fmt: skip


def test_chunks_are_joined_whatever_the_reads_were() -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw = head + b"5\r\nhello\r\n1;x=y\r\n \r\n5\r\nworld\r\n0\r\n\r\n"
    for size in range(1, len(raw)):
        pieces = [raw[start : start + size] for start in range(0, len(raw), size)]
        answer = parse_answer([float(n) for n in range(len(pieces))], pieces)
        assert (answer.status, answer.body, answer.is_whole) == (200, b"hello world", True)
        # Every part carries the number of the read that its bytes came in.
        for at, part in answer.pieces:
            assert part in pieces[int(at)]


@pytest.mark.parametrize(
    ("raw", "is_whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabcd", False),
        (b"HTTP/1.0 200 OK\r\n\r\nabcd", True),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nabcd\r\n", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nabcd", False),
    ],
)
def test_cut_answer_is_told_from_a_whole_one(raw: bytes, is_whole: bool) -> None:
    answer = parse_answer([1.0], [raw])
    assert (answer.body, answer.is_whole) == (b"abcd", is_whole)


def test_bytes_that_are_no_answer_are_malformed() -> None:
    for raw in (b"SSH-2.0-OpenSSH", b"HTTP/1.1 200 OK\r\nConte", b"HTTP/2 x\r\n\r\n"):
        with pytest.raises(MalformedAnswer):
            parse_answer([1.0], [raw])


def test_events_follow_the_specification() -> None:
    stream = b": comment\nevent: x\ndata: one\ndata:two\n\ndata\n\r\ndata: three\r\n\r\ndata: last"
    assert list(events_of([(1.0, stream[:20]), (2.0, stream[20:])])) == [
        (2.0, "one\ntwo"),
        (2.0, "three"),
    ]


def test_reading_of_nothing_and_of_nonsense_is_a_failure() -> None:
    target = OpenAiTarget("localhost:9", "m", options=OpenAiOptions())

    def read(*pieces: bytes) -> Reading:
        exchange = Exchange(index=0, phase="measured", prompt=PROMPTS[0], scheduled=0.0)
        exchange.pieces, exchange.arrivals = list(pieces), [1.0] * len(pieces)
        return target.read(exchange)

    ok = b"HTTP/1.1 200 OK\r\n\r\n"
    found = [
        read(),
        read(b"nonsense"),
        read(ok, b"data: {not json}\n\n"),
        read(ok, b'data: {"error": {"message": "too long"}}\n\n'),
        read(ok, b'data: {"choices": [{"text": "x"}]}\n\n'),
        read(ok, b"data: [DONE]\n\n"),
    ]
    assert [reading.failure.kind if reading.failure else None for reading in found] == [
        "broken", "malformed", "malformed", "refused", "incomplete", "incomplete",
    ]  # fmt: skip


def test_url_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="http://HOST:PORT"):
        Endpoint.parse("grpc://x:1", path="/")
    assert Endpoint.parse("https://h/base/v1/", path="/v1/x").path == "/base/v1/x"
