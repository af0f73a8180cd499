"""What does answer at an address where gRPC found nobody: HTTP, TLS, or gRPC without it.

It is asked once, after a failure, by a few bytes on a connection of its own; no certificate is believed.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from triton_repo.client.channel import ServerUnreachable, Tls

_TIMEOUT_S = 2.0
_GET = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
"""The beginning of a connection of HTTP/2 (RFC 9113, 3.4), with empty SETTINGS."""
_SETTINGS = 4


@contextmanager
def recognized(url: str, *, tls: Tls | None) -> Iterator[None]:
    """A block whose first request goes to `url`: when nobody answers it, what else answers there is said.

    Raises:
        ServerUnreachable: as the block does, with what was found.
    """
    try:
        yield
    except ServerUnreachable as error:
        found = what_answers(url, tls=tls)
        if found is None:
            raise
        raise ServerUnreachable(f"{url}: {found}") from error


def what_answers(url: str, *, tls: Tls | None) -> str | None:
    """What answers at HOST:PORT instead of what was asked for, and what to do; None when nothing does."""
    address = _address(url)
    if address is None:
        return None
    if tls is not None:
        if _speaks_http2(address):
            return "a gRPC server without TLS answers there; leave out --tls and its files"
    elif _speaks_tls(address):
        return "a server answers there by TLS; give --tls, or --tls-root FILE for an authority of your own"
    if _reply(address, _GET).startswith(b"HTTP/1"):
        return (
            "an HTTP server answers there, and not gRPC; the gRPC port of a server that tpforge started is "
            "the one after its HTTP port (8001 beside 8000)"
        )
    return None


def speaks_http2(url: str) -> bool:
    """Whether a server answers there by HTTP/2 without TLS from the first byte, as one of gRPC does."""
    address = _address(url)
    return address is not None and _speaks_http2(address)


def _address(url: str) -> tuple[str, int] | None:
    """Host and port of HOST:PORT or of a URL."""
    host, _, port = (
        url.partition("//")[2].partition("/")[0].rpartition(":") if "//" in url else url.rpartition(":")
    )
    return (host.strip("[]"), int(port)) if port.isdigit() else None


def _speaks_http2(address: tuple[str, int]) -> bool:
    first = _reply(address, _HTTP2)
    return len(first) > 3 and first[3] == _SETTINGS


def _speaks_tls(address: tuple[str, int]) -> bool:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # Nothing is sent and nothing believed: it is a question of protocol.
    context.set_alpn_protocols(["h2", "http/1.1"])
    try:
        with socket.create_connection(address, timeout=_TIMEOUT_S) as plain:
            context.wrap_socket(plain, server_hostname=address[0]).close()
    except ssl.SSLError as error:
        # A server that wants the client's certificate ends the handshake by an alert, which is TLS too.
        return error.reason is not None and "ALERT" in error.reason
    except OSError:
        return False
    return True


def _reply(address: tuple[str, int], question: bytes) -> bytes:
    """The first bytes of an answer; empty when there is none."""
    with contextlib.suppress(OSError), socket.create_connection(address, timeout=_TIMEOUT_S) as connection:
        connection.sendall(question)
        return connection.recv(16)
    return b""
