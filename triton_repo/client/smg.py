"""A server of `trtllm-serve --grpc` asked by token ids: its health, its limits, whole answers and streams.

It waits for what it asked and judges nothing: smoke/ does. Load is `triton_repo.load.smg_target`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from tpforge.closing import Closing
from triton_repo.client.channel import Tls, check_url, open_channel, translate
from triton_repo.trtllm_serve.smg import (
    GENERATE,
    HEALTH,
    MESSAGES,
    MODEL_INFO,
    SERVER_INFO,
    generate_request,
)


@dataclass(frozen=True)
class SmgChunk:
    """A response: new tokens of a stream, or, with `finish`, its end with all of them."""

    token_ids: tuple[int, ...]
    prompt_tokens: int
    completion_tokens: int
    finish: str | None = None


@dataclass(frozen=True)
class SmgLimits:
    """What the server says of its model; 0 where it does not say."""

    model_id: str
    max_input_len: int
    max_seq_len: int
    vocab_size: int


class SmgClient(Closing):
    """A connection to one server, used as a context manager; `deadline_s` bounds every request.

    Raises:
        UsageError: `url` is not HOST:PORT.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline_s: float = 60.0,
        headers: Mapping[str, str] | None = None,
        tls: Tls | None = None,
    ) -> None:
        self.url, self.deadline_s = check_url(url), deadline_s
        self._headers = tuple((key.lower(), value) for key, value in (headers or {}).items())
        self._channel = open_channel(self.url, tls=tls)

    def health(self) -> str:
        """``OK``, or what is wrong.

        Raises:
            ServerUnreachable, DeadlineExceeded, RequestRefused: it did not answer.
        """
        return str(self._ask(HEALTH, "HealthCheck").status)

    def limits(self) -> SmgLimits:
        """What it says of its model.

        Raises:
            ServerUnreachable, DeadlineExceeded, RequestRefused: it did not answer.
        """
        found = self._ask(MODEL_INFO, "GetModelInfo")
        return SmgLimits(found.model_id, found.max_input_len, found.max_seq_len, found.vocab_size)

    def version(self) -> str:
        """The release of TensorRT-LLM that it says it is.

        Raises:
            ServerUnreachable, DeadlineExceeded, RequestRefused: it did not answer.
        """
        return str(self._ask(SERVER_INFO, "GetServerInfo").version)

    def generate(self, token_ids: Sequence[int], *, max_tokens: int, **sampling: Any) -> SmgChunk:
        """The whole answer.

        Raises:
            ServerUnreachable, DeadlineExceeded, RequestRefused: there is none.
        """
        stream = self.open(token_ids, max_tokens=max_tokens, streaming=False, **sampling)
        chunks = [chunk for chunk in stream if chunk.finish is not None]
        if len(chunks) != 1:
            raise ValueError(f"{len(chunks)} complete responses, expected 1")
        return chunks[0]

    def open(
        self, token_ids: Sequence[int], *, max_tokens: int, streaming: bool = True, **sampling: Any
    ) -> SmgStream:
        """Ask for an answer; its responses as they come.

        Raises:
            UsageError: the protocol has no such field of `sampling`.
        """
        request = generate_request(
            token_ids,
            max_tokens=max_tokens,
            request_id=uuid.uuid4().hex,
            streaming=streaming,
            sampling=sampling,
        )
        return self.send(request.SerializeToString())

    def send(self, request: bytes) -> SmgStream:
        """Send the bytes of a request, right or wrong; its responses as they come."""
        call = self._channel.unary_stream(GENERATE)(request, timeout=self.deadline_s, metadata=self._headers)
        return SmgStream(call, self)

    def _ask(self, method: str, name: str) -> Any:
        try:
            raw = self._channel.unary_unary(method)(
                MESSAGES[f"{name}Request"]().SerializeToString(),
                timeout=self.deadline_s,
                metadata=self._headers,
            )
        except grpc.RpcError as error:
            raise translate(error, url=self.url, deadline_s=self.deadline_s) from None
        return MESSAGES[f"{name}Response"].FromString(raw)

    def close(self) -> None:
        """Close the connection; requests in flight end."""
        self._channel.close()


class SmgStream:
    """The responses to one request; `cancel` in mid-stream is a client that goes away."""

    def __init__(self, call: Any, client: SmgClient) -> None:
        self._call, self._client = call, client

    def __iter__(self) -> Iterator[SmgChunk]:
        """Each response as it comes, until the server closes the stream.

        Raises:
            ServerUnreachable, DeadlineExceeded, RequestRefused, RequestCancelled: it was broken off.
            ValueError: a response is neither tokens nor an end.
        """
        try:
            for raw in self._call:
                yield _read(MESSAGES["GenerateResponse"].FromString(raw))
        except grpc.RpcError as error:
            raise translate(error, url=self._client.url, deadline_s=self._client.deadline_s) from None

    def cancel(self) -> None:
        """Tell the server that nobody waits any more."""
        self._call.cancel()


def _read(response: Any) -> SmgChunk:
    if response.HasField("complete"):
        found = response.complete
        return SmgChunk(
            tuple(found.output_token_ids),
            found.prompt_tokens,
            found.completion_tokens,
            found.finish_reason,
        )
    if response.HasField("chunk"):
        chunk = response.chunk
        return SmgChunk(tuple(chunk.token_ids), chunk.prompt_tokens, chunk.completion_tokens)
    raise ValueError("a response is neither tokens nor an end")
