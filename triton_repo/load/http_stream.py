"""An HTTP/1.1 POST whose answer is read as it comes: raw bytes with their stamps, parsed afterwards.

One connection a request, closed by the server at the end, so that nothing has to be parsed to find it. It
knows nothing of what the body means.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from tpforge.errors import UsageError

_READ_SIZE = 1 << 16


class MalformedAnswer(ValueError):
    """The bytes are not an HTTP/1.1 answer, or only a part of one."""


@dataclass(frozen=True)
class Endpoint:
    """Where to post to."""

    host: str
    port: int
    path: str
    tls: ssl.SSLContext | None = None

    @classmethod
    def parse(cls, url: str, *, path: str, root_certificates: str | None = None) -> Endpoint:
        """The endpoint `path` below http://HOST:PORT[/BASE], or https.

        Raises:
            UsageError: `url` is something else, or the certificates cannot be read.
        """
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{url!r} is not http://HOST:PORT of an OpenAI-compatible server")
        tls = None
        if parts.scheme == "https":
            try:
                tls = ssl.create_default_context(cafile=root_certificates)
            except OSError as error:
                raise UsageError(f"{root_certificates}: cannot be read: {error.strerror}") from None
        base = parts.path.rstrip("/").removesuffix("/v1")
        port = parts.port or (443 if tls else 80)
        return cls(parts.hostname, port, base + path, tls)

    def encode(self, body: bytes, *, headers: Mapping[str, str]) -> bytes:
        """The whole request."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {self.host}:{self.port}"]
        fields = {
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Accept": "text/event-stream, application/json",
            "Connection": "close",
            **headers,
        }
        lines += [f"{name}: {value}" for name, value in fields.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class Connection:
    """One request on a connection of its own; `arrivals` and `pieces` are filled as bytes come."""

    def __init__(self, endpoint: Endpoint, *, arrivals: list[float], pieces: list[bytes]) -> None:
        self._endpoint, self._arrivals, self._pieces = endpoint, arrivals, pieces
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, request: bytes) -> asyncio.StreamReader:
        """Connect and send.

        Raises:
            OSError: there is no connection, or it was lost.
        """
        place = self._endpoint
        reader, self._writer = await asyncio.open_connection(place.host, place.port, ssl=place.tls)
        self._writer.write(request)
        return reader

    async def receive(self, reader: asyncio.StreamReader) -> None:
        """Read until the server closes.

        Raises:
            OSError: the connection was lost.
        """
        now, arrivals, pieces = asyncio.get_running_loop().time, self._arrivals, self._pieces
        while True:
            piece = await reader.read(_READ_SIZE)
            at = now()
            if not piece:
                return
            arrivals.append(at)
            pieces.append(piece)

    def close(self) -> None:
        """Drop the connection."""
        if self._writer is not None:
            self._writer.close()


@dataclass(frozen=True)
class HttpAnswer:
    """A parsed answer: its status and the pieces of its body, each with the stamp of its last byte."""

    status: int
    pieces: tuple[tuple[float, bytes], ...]
    is_whole: bool

    @property
    def body(self) -> bytes:
        """All of the body."""
        return b"".join(piece for _, piece in self.pieces)


def parse_answer(arrivals: Sequence[float], pieces: Sequence[bytes]) -> HttpAnswer:
    """The answer in raw bytes: chunked, by its length, or until the end of the connection.

    Raises:
        MalformedAnswer: it is no HTTP/1.1 answer.
    Source: RFC 9112, sections 4, 6 and 7.1
    """
    raw = b"".join(pieces)
    head, blank, rest = raw.partition(b"\r\n\r\n")
    status_line, *field_lines = head.split(b"\r\n")
    words = status_line.split(b" ", 2)
    if not blank or len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise MalformedAnswer(f"no HTTP/1.1 answer: {raw[:80]!r}")
    fields = {
        name.strip().lower(): value.strip().lower()
        for name, _, value in (line.partition(b":") for line in field_lines)
    }
    start = len(head) + 4
    spans = [(start, len(raw))]
    is_whole = True
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        spans, is_whole = _chunks(raw, start)
    elif length := fields.get(b"content-length"):
        is_whole = len(rest) >= int(length)
    return HttpAnswer(int(words[1]), tuple(_stamped(raw, spans, arrivals, pieces)), is_whole)


def _chunks(raw: bytes, start: int) -> tuple[list[tuple[int, int]], bool]:
    """Begin and end of the data of each chunk, and whether the last, empty one came."""
    spans: list[tuple[int, int]] = []
    while True:
        end_of_size = raw.find(b"\r\n", start)
        if end_of_size < 0:
            return spans, False
        try:
            size = int(raw[start:end_of_size].split(b";")[0], 16)
        except ValueError:
            raise MalformedAnswer(f"no size of a chunk: {raw[start:end_of_size][:40]!r}") from None
        begin = end_of_size + 2
        if size == 0:
            return spans, True
        if begin + size > len(raw):
            return [*spans, (begin, len(raw))], False
        spans.append((begin, begin + size))
        start = begin + size + 2


def _stamped(
    raw: bytes, spans: Sequence[tuple[int, int]], arrivals: Sequence[float], pieces: Sequence[bytes]
) -> list[tuple[float, bytes]]:
    """Cut the spans of `raw` where one read ended and the next began, so that each part has its stamp."""
    parts = []
    read, end_of_read = 0, len(pieces[0])
    for begin, end in spans:
        while begin < end:
            while begin >= end_of_read:
                read += 1
                end_of_read += len(pieces[read])
            upto = min(end, end_of_read)
            parts.append((arrivals[read], raw[begin:upto]))
            begin = upto
    return parts
