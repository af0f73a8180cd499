"""Drill: clients that vanish, stall or send half a message, and many connections at once.

It starts no server.
"""

from __future__ import annotations

import itertools
import socket
import time
from contextlib import ExitStack, suppress
from urllib.parse import urlsplit

from tests.drills.figures import Figure
from tpforge.errors import TpforgeError
from triton_repo.client.client import Client

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HALF = (
    b'POST /v2/models/ensemble/generate HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{"text_input": "He'
)


def run(url: str, http_url: str, *, num_clients: int, num_connections: int) -> Figure:
    """The server answers others, as before, while and after."""
    figure = Figure(
        "clients that vanish, stall, send half", "clients", bad={"wrong answers to others": 0, "hung": 0}
    )
    with Client(url, deadline_s=60) as client:
        canary = client.generate("Hello", max_tokens=6).text
    with ExitStack() as stalled:
        for kind in itertools.islice(itertools.cycle(("vanish", "stall", "half", "junk")), num_clients):
            _misbehave(kind, url, http_url, stalled)
            figure.num_tries += 1
        _probe(figure, url, canary)
        for _ in range(num_connections):
            connection = stalled.enter_context(socket.create_connection(_place(url), timeout=30))
            connection.sendall(_PREFACE)
        figure.notes.append(f"{num_connections} connections at once")
        _probe(figure, url, canary)
    _probe(figure, url, canary)
    return figure


def _misbehave(kind: str, url: str, http_url: str, stalled: ExitStack) -> None:
    if kind == "vanish":
        with suppress(TpforgeError), Client(url, deadline_s=30) as client:
            next(iter(client.chunks("Hello", max_tokens=500)))  # Left amid its stream.
        return
    place = _place(http_url) if kind == "half" else _place(url)
    connection = stalled.enter_context(socket.create_connection(place, timeout=30))
    connection.sendall({"stall": _PREFACE, "half": _HALF, "junk": bytes(range(256)) * 8}[kind])


def _probe(figure: Figure, url: str, canary: str) -> None:
    begun = time.monotonic()
    try:
        with Client(url, deadline_s=60) as client:
            figure.count(
                "wrong answers to others", int(client.generate("Hello", max_tokens=6).text != canary)
            )
    except TpforgeError:
        figure.count("hung")
    figure.took("to a canary's answer", time.monotonic() - begun)


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url if "//" in url else f"//{url}")
    assert parts.hostname is not None and parts.port is not None
    return parts.hostname, parts.port
