"""Requests on gRPC streams, one on each: what comes is stamped as raw bytes, and how it ended is told.

It decodes nothing; the targets do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc
from grpc import aio

from tpforge.measure.runs.samples import ErrorKind
from triton_repo.client.channel import Tls, aio_channel, check_url
from triton_repo.load.exchange import Exchange, Failure


class Streams:
    """Calls of one streaming `method` of the server at HOST:PORT, raw bytes in and out.

    Raises:
        UsageError: `url` is something else.
    """

    def __init__(
        self, url: str, method: str, *, deadline_s: float, headers: Mapping[str, str], tls: Tls | None
    ) -> None:
        self.url, self._name, self._deadline_s, self._tls = check_url(url), method, deadline_s, tls
        self._metadata = tuple((key.lower(), value) for key, value in headers.items())
        self._channel: aio.Channel | None = None
        self._method: Any = None

    async def open(self) -> None:
        """Connect; an address where nothing listens shows at the first request."""
        self._channel = aio_channel(self.url, tls=self._tls)
        # No serializers: what comes is stamped as it is, and decoded when nobody waits.
        self._method = self._channel.stream_stream(self._name)
        self._channel.get_state(try_to_connect=True)

    async def close(self) -> None:
        """Close the channel."""
        if self._channel is not None:
            await self._channel.close()

    async def put_on(self, request: bytes, exchange: Exchange) -> None:
        """Send `request` on a stream of its own and read until the server closes it; fills `exchange`.

        Nothing is raised but a cancellation.
        """
        call = self._method(timeout=self._deadline_s, metadata=self._metadata)
        await _put_on(call, request, exchange, deadline_s=self._deadline_s)


async def _put_on(call: Any, request: bytes, exchange: Exchange, *, deadline_s: float) -> None:
    arrivals, pieces = exchange.arrivals, exchange.pieces
    now, end = asyncio.get_running_loop().time, aio.EOF
    try:
        await call.write(request)
        exchange.sent = now()
        await call.done_writing()
        read = call.read
        while True:
            piece = await read()
            at = now()
            if piece is end:
                break
            arrivals.append(at)
            pieces.append(piece)
        code = await call.code()
        if code is not grpc.StatusCode.OK:
            exchange.failure = _failure(exchange, code, await call.details() or "", deadline_s=deadline_s)
    except grpc.RpcError as error:
        details = str(error.details() or "")
        exchange.failure = _failure(exchange, await call.code(), details, deadline_s=deadline_s)
    except asyncio.InvalidStateError:
        # Writing to a call that has ended meanwhile, such as for want of a connection.
        details = await call.details() or ""
        exchange.failure = _failure(exchange, await call.code(), details, deadline_s=deadline_s)
    except asyncio.CancelledError:
        exchange.failure = Failure("cancelled", "this client gave up")
        call.cancel()
        raise
    finally:
        exchange.ended = now()


def _failure(exchange: Exchange, code: grpc.StatusCode, details: str, *, deadline_s: float) -> Failure:
    """What a status other than OK means, given how far the request had come."""
    message = f"{code.name}: {details}" if details else code.name
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Failure("timeout", f"no complete answer within {deadline_s:g} s")
    if code is grpc.StatusCode.CANCELLED:
        return Failure("cancelled", message)
    if code is grpc.StatusCode.UNAVAILABLE:
        return Failure(_lost(exchange, details), message)
    return Failure("refused", details or message)


def _lost(exchange: Exchange, details: str) -> ErrorKind:
    """Whether there was no connection, or it was lost with the request under way."""
    never = "failed to connect" in details.lower() or exchange.sent is None
    return "unreachable" if never and not exchange.arrivals else "broken"
