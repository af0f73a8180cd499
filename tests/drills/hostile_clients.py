"""Drill: clients that a server does not know, who try to stop it or to take what is not theirs; a canary.

Clients that vanish or stall are in `clients`, values of single fields in `requests`. It starts no server.
"""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from tests.drills.figures import Figure
from tests.support.patience import PATIENCE_S
from tpforge.errors import TpforgeError
from tpforge.system.opener import open_url
from triton_repo.client.client import Client, prompt_tensors
from triton_repo.serve.local import Server

RECOVERS_WITHIN_S = 10.0
"""After the worst that one client does, the next request is answered so soon."""


def run(server: Server, *, num_streams: int) -> Figure:
    """Every attack in turn, while another client asks the same again and again."""
    figure = Figure("hostile clients", "attacks")
    figure.bad = {"let in": 0, "wrong answers to others": 0, "hung": 0, f"over {RECOVERS_WITHIN_S:g} s": 0}
    canary = _ask(server)
    assert canary is not None
    for attack in (
        lambda: _flood(server, num_streams, model="ensemble"),
        lambda: _flood(server, num_streams, model="tensorrt_llm_bls"),
        lambda: _words(server, ["x" * (8 << 20)]),
        lambda: _words(server, ["x"] * 100_000),
        lambda: _prompt(server, 16 << 20),
        lambda: _administer(server),
        lambda: _broken_http(server),
    ):
        _attacked(figure, server, attack, canary)
    return figure


def _attacked(figure: Figure, server: Server, attack: Callable[[], int], canary: str) -> None:
    with _asking(server, canary) as others:
        figure.count("let in", attack())
    figure.num_tries += 1
    begun = time.monotonic()
    answer = _ask(server)
    taken = time.monotonic() - begun
    figure.took("to the next answer", taken)
    figure.count(f"over {RECOVERS_WITHIN_S:g} s", int(taken > RECOVERS_WITHIN_S))
    figure.count("hung", int(answer is None))
    figure.count("wrong answers to others", int(answer not in (None, canary)) + others.count(False))


def _ask(server: Server) -> str | None:
    """The answer, asked for again while the server refuses, as a full queue is; None when none comes."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        with suppress(TpforgeError), Client(server.grpc_url, deadline_s=PATIENCE_S) as client:
            return client.generate("Hello", max_tokens=6).text
        time.sleep(0.1)
    return None


@contextmanager
def _asking(server: Server, canary: str) -> Iterator[list[bool]]:
    """Another client, and whether each of its answers was the right one; a refusal is none."""
    found: list[bool] = []
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            with suppress(TpforgeError), Client(server.grpc_url, deadline_s=PATIENCE_S) as client:
                found.append(client.generate("Hello", max_tokens=6).text == canary)
            ended.wait(0.2)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join(PATIENCE_S)


def _flood(server: Server, num_streams: int, *, model: str) -> int:
    """Streams that would take minutes, without ids, begun and left at once, all over one connection."""
    with Client(server.grpc_url, deadline_s=PATIENCE_S) as client:
        tensors = prompt_tensors(["Hello"], max_tokens=4000, model=model, stream=True, end_id=-1)
        streams = [client.open(model, tensors) for _ in range(num_streams)]
        for stream in streams:
            stream.cancel()
    return 0


def _words(server: Server, words: list[str]) -> int:
    """Whether stop words beyond every bound are obeyed."""
    return _accepted(lambda client: client.generate("Hello", max_tokens=2, stop_words=words), server)


def _prompt(server: Server, size: int) -> int:
    return _accepted(lambda client: client.generate("a " * (size // 2), max_tokens=2), server)


def _accepted(ask: Callable[[Client], object], server: Server) -> int:
    with suppress(TpforgeError), Client(server.grpc_url, deadline_s=PATIENCE_S) as client:
        ask(client)
        return 1
    return 0


def _administer(server: Server) -> int:
    """How many of the things that are the administrator's, or nobody's, a client without a key may do."""
    tries: tuple[Callable[[triton.InferenceServerClient], object], ...] = (
        lambda client: client.register_system_shared_memory("mine", "/tpforge-drill", 4096),
        lambda client: client.get_system_shared_memory_status(),
        lambda client: client.register_cuda_shared_memory("mine", b"x" * 64, 0, 4096),
        lambda client: client.unload_model("ensemble"),
        lambda client: client.load_model("ensemble", config="{}"),
    )
    done = 0
    with triton.InferenceServerClient(server.grpc_url) as client:
        for attempt in tries:
            with suppress(InferenceServerException):
                attempt(client)
                done += 1
    return done


def _broken_http(server: Server) -> int:
    """Lengths that lie, numbers that are none, a head without end; nothing of it is answered as a success."""
    done = 0
    url = f"{server.http_url}/v2/models/ensemble/infer"
    for headers in ({"Inference-Header-Content-Length": "9" * 30}, {"Inference-Header-Content-Length": "-1"}):
        with suppress(urllib.error.HTTPError, OSError):
            open_url(url, timeout_s=PATIENCE_S, method="POST", body=b"{}", headers=headers).close()
            done += 1
    place = urlsplit(server.http_url)
    lengths = (b"Content-Length: -5\r\n", b"Content-Length: 99999999999999999999\r\n")
    for head in (*lengths, b"X: y\r\n" * 100_000):
        with suppress(OSError), socket.create_connection((place.hostname, place.port), timeout=10) as line:
            line.sendall(b"POST /v2/models/ensemble/generate HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n{}")
            line.shutdown(socket.SHUT_WR)
            done += line.recv(64).startswith(b"HTTP/1.1 2")
    return done
