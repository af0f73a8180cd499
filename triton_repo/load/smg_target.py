"""Load on `trtllm-serve --grpc`: token ids in, token ids out, so that every count is exact.

Its messages are `triton_repo.trtllm_serve.smg`'s. It makes no text of the ids but to keep the answers.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.message import DecodeError

from tpforge.measure.runs.prompts import DEFAULT_MAX_TOKENS, Prompt
from triton_repo.client.channel import Tls
from triton_repo.load.exchange import Exchange, Failure, Piece, Reading
from triton_repo.load.grpc_stream import Streams
from triton_repo.trtllm_serve.smg import GENERATE, MESSAGES, generate_request

Encode = Callable[[str], Sequence[int]]
Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class SmgOptions:
    """How the server is asked; `sampling` are fields by the protocol's names, alike for every request."""

    deadline_s: float = 60.0
    streaming: bool = True
    sampling: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None


class SmgTarget:
    """The server at HOST:PORT; `encode` and `decode` are its model's tokenizer, special tokens included.

    Raises:
        UsageError: `url` is something else.
    """

    def __init__(self, url: str, *, encode: Encode, decode: Decode, options: SmgOptions) -> None:
        self.options = options
        self._encode, self._decode = encode, decode
        self._streams = Streams(
            url, GENERATE, deadline_s=options.deadline_s, headers=options.headers, tls=options.tls
        )
        self.url = self._streams.url
        self._requests: dict[str, bytes] = {}

    async def open(self) -> None:
        """Connect; an address where nothing listens shows at the first request."""
        # One message and the end of the stream is what a call with one request is on the wire.
        await self._streams.open()

    async def close(self) -> None:
        """Close the channel."""
        await self._streams.close()

    def prepare(self, prompts: Sequence[Prompt]) -> None:
        """Serialize a request for every prompt.

        Raises:
            UsageError: the protocol has no such field of `sampling`.
        """
        for prompt in prompts:
            own = {"min_tokens": prompt.min_tokens, "ignore_eos": True} if prompt.min_tokens else {}
            request = generate_request(
                self._encode(prompt.text),
                max_tokens=prompt.max_tokens or DEFAULT_MAX_TOKENS,
                streaming=self.options.streaming,
                sampling={**own, **self.options.sampling},
            )
            self._requests[prompt.id] = request.SerializeToString()

    async def run(self, exchange: Exchange) -> None:
        """One request, then responses until the server closes the stream."""
        request_id = MESSAGES["GenerateRequest"](request_id=uuid.uuid4().hex).SerializeToString()
        request = self._requests[exchange.prompt.id] + request_id
        await self._streams.put_on(request, exchange)

    def read(self, exchange: Exchange) -> Reading:
        """Decode the responses of a stream that is over."""
        pieces: list[Piece] = []
        failure, complete = exchange.failure, None
        for at, raw in zip(exchange.arrivals, exchange.pieces, strict=True):
            try:
                response = MESSAGES["GenerateResponse"].FromString(raw)
            except DecodeError as error:
                failure = failure or Failure("malformed", f"{type(error).__name__}: {error}")
                break
            if response.HasField("complete"):
                complete = response.complete
                if not self.options.streaming and complete.output_token_ids:
                    pieces.append(Piece(at, "", tuple(complete.output_token_ids)))
            elif response.HasField("chunk"):
                if response.chunk.token_ids:
                    pieces.append(Piece(at, "", tuple(response.chunk.token_ids)))
            else:
                # Servers of before 1.3.0rc20 or so told an error in a field that is gone since.
                failure = failure or Failure("refused", f"neither tokens nor an end: {raw[:200]!r}")
                break
        ids = [token for piece in pieces for token in piece.token_ids or ()]
        if failure is None and complete is None:
            failure = Failure("incomplete", "the stream ended without its complete response")
        elif failure is None and complete is not None and not _agree(ids, complete.output_token_ids):
            failure = Failure("malformed", "the complete response holds other tokens than its chunks")
        return Reading(
            pieces=tuple(pieces),
            text=self._decode(ids),
            failure=failure,
            input_tokens=complete.prompt_tokens if complete is not None else None,
            output_tokens=complete.completion_tokens if complete is not None else None,
            finish_reason=(complete.finish_reason or None) if complete is not None else None,
        )


def _agree(streamed: Sequence[int], complete: Sequence[int]) -> bool:
    """The end may leave out the tokens of a stop word, which were streamed before it was one."""
    return list(streamed[: len(complete)]) == list(complete)
