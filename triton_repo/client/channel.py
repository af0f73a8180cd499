"""Opens the gRPC connection to a server, and turns what breaks on it into our errors.

It sends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from tpforge.errors import EnvironmentUnusable, InputRefused, UsageError

# Without these a client that met a restarting server would wait up to two minutes before it tries again.
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    # Not a pause: how long one try may take, which over TLS, far away or on a busy machine is much.
    ("grpc.min_reconnect_backoff_ms", 10_000),
    ("grpc.max_reconnect_backoff_ms", 1000),
)
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]", "0.0.0.0")
# Triton says UNAVAILABLE of what it refuses too: a shape, a protocol that wants a key, model control.
_UNAVAILABLE_REFUSALS = ("[", "This protocol is restricted", "explicit model load / unload")
_UNPROVEN = ("Hostname Verification Check failed", "CERTIFICATE_VERIFY_FAILED")
_CANCELLED_HERE = ("Locally cancelled", "Channel closed")
"""What grpcio says of a call that its own side ended; a server that ends sends the same status."""
_HTTP_ALONE = "Received http2 header with status"
"""What gRPC says of an answer by HTTP/2 that is none of gRPC's, as from the front of OpenAI's API."""
_LOST = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


class ServerUnreachable(EnvironmentUnusable):
    """Nothing listens at the address, or the connection broke while a request was in flight."""


class CertificateRefused(ServerUnreachable):
    """A server is there, and its certificate does not prove that it is the one that was asked for."""


class DeadlineExceeded(EnvironmentUnusable):
    """The server did not finish a request in time."""


class RequestRefused(InputRefused):
    """The server answered with an error; the message is the server's, verbatim."""


class RequestCancelled(EnvironmentUnusable):
    """The request was cancelled by this client."""


@dataclass(frozen=True)
class Tls:
    """Files of a TLS connection; without root certificates the system's are used.

    `server_name` is the name in the server's certificate where it is not the one in the address.
    """

    root_certificates: Path | None = None
    private_key: Path | None = None
    certificate_chain: Path | None = None
    server_name: str | None = None


def open_channel(url: str, *, tls: Tls | None) -> Any:
    """A channel to HOST:PORT; nothing is connected yet.

    Raises:
        UsageError: a file of `tls` cannot be read.
    """
    options = _options(url, tls)
    if tls is None:
        return grpc.insecure_channel(url, options=options)
    return grpc.secure_channel(url, _credentials(tls), options=options)


def aio_channel(url: str, *, tls: Tls | None) -> Any:
    """As `open_channel`, for the running event loop.

    Raises:
        UsageError: a file of `tls` cannot be read.
    """
    from grpc import aio

    options = _options(url, tls)
    if tls is None:
        return aio.insecure_channel(url, options=options)
    return aio.secure_channel(url, _credentials(tls), options=options)


def check_url(url: str) -> str:
    """HOST:PORT of a gRPC endpoint.

    Raises:
        UsageError: `url` is something else.
    """
    bare = url.removeprefix("grpc://")
    if "//" in bare or ":" not in bare:
        by_http = "; smoke and bench take http:// with --api openai" if bare.startswith("http") else ""
        raise UsageError(f"{url!r} is not HOST:PORT of a gRPC endpoint, like localhost:8001{by_http}")
    return bare


def _options(url: str, tls: Tls | None) -> list[tuple[str, int | str]]:
    options: list[tuple[str, int | str]] = list(CHANNEL_OPTIONS)
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    if url.rpartition(":")[0] in _LOOPBACK:
        options.append(("grpc.enable_http_proxy", 0))  # http_proxy would be asked for localhost too.
    return options


def _credentials(tls: Tls) -> Any:
    contents = {}
    for name in ("root_certificates", "private_key", "certificate_chain"):
        path: Path | None = getattr(tls, name)
        try:
            contents[name] = path.read_bytes() if path is not None else None
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    return grpc.ssl_channel_credentials(**contents)


def translate(
    error: Any, *, url: str, deadline_s: float
) -> ServerUnreachable | DeadlineExceeded | RequestRefused | RequestCancelled:
    """Our error for an error of gRPC."""
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"{url}: no complete answer within {deadline_s:g} s")
    if code is grpc.StatusCode.CANCELLED:
        if details.startswith(_CANCELLED_HERE):
            return RequestCancelled(f"{url}: the request was cancelled")
        return ServerUnreachable(
            f"{url}: the server ended the request unasked, as one does that stops: {details}"
        )
    if code in _LOST and any(text in details for text in _UNPROVEN):
        return CertificateRefused(
            f"{url}: its certificate is for another name or address (give --tls-name), or signed by another "
            f"authority (give --tls-root): {details}"
        )
    if code in _LOST and "failed to connect" in details.lower():
        return ServerUnreachable(
            f"{url}: nothing answers there ({details}); start a server with `tpforge serve`, "
            "or give the HOST:PORT of its gRPC port"
        )
    if _HTTP_ALONE in details:
        return ServerUnreachable(
            f"{url}: an HTTP server answers there, and not gRPC ({details}); give the server's gRPC port, or "
            "for OpenAI's API take smoke or bench with --api openai"
        )
    if code is grpc.StatusCode.UNAVAILABLE and not details.startswith(_UNAVAILABLE_REFUSALS):
        return ServerUnreachable(f"{url}: the connection to the server is lost: {details}")
    return RequestRefused(details or str(code))
