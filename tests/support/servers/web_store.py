"""A small WebDAV on this machine, as a store of engines: HEAD, GET with Range, PUT, tokens, redirects.

It breaks connections off when it is told to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar


class Handler(BaseHTTPRequestHandler):
    """A small WebDAV: HEAD, GET with Range, PUT; counts, and breaks connections off when told to."""

    protocol_version = "HTTP/1.1"
    root: Path
    break_after: int | None = None
    ranges: ClassVar[list[str]] = []
    token = ""
    moved_to = ""
    tokens_seen: ClassVar[list[str | None]] = []
    knows_range = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test that fails says why itself."""

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_PUT(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.root / self.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._head(HTTPStatus.CREATED, 0)

    def _answer(self, *, with_body: bool) -> None:
        path = self.root / self.path.lstrip("/")
        self.tokens_seen.append(self.headers.get("Authorization"))
        if self.token and self.headers.get("Authorization") != self.token:
            self._head(HTTPStatus.UNAUTHORIZED, 0)
            return
        if self.moved_to:
            self.send_response(HTTPStatus.TEMPORARY_REDIRECT)
            self.send_header("Location", self.moved_to + self.path)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if not path.is_file():
            self._head(HTTPStatus.NOT_FOUND, 0)
            return
        data = path.read_bytes()
        wanted = self.headers.get("Range") if self.knows_range else None
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if wanted:
            self.ranges.append(f"{path.name}@{start}")
        self._head(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK, len(data) - start)
        if not with_body:
            return
        body = data[start:]
        enough = type(self).break_after
        if enough is not None and len(body) > enough:
            self.wfile.write(body[:enough])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()


class Server(ThreadingHTTPServer):
    """One thread per connection, none of which outlives the test."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that a test broke off are no news."""


@contextmanager
def web_server(root: Path) -> Iterator[tuple[str, type[Handler]]]:
    """A store at `root`, its address, and the handler class that a test may tell how to behave."""
    handler = type("OneHandler", (Handler,), {"root": root, "ranges": [], "tokens_seen": []})
    with Server(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()
        thread.join()
