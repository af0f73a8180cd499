"""An OpenAI-compatible server (trtllm-serve, Dynamo, vLLM) asked over HTTP: models, answers, streams.

It waits for what it asked and judges nothing: smoke/ does. Load is `triton_repo.load.openai_target`, which
stamps every read.
"""

from __future__ import annotations

import http.client
import json
import urllib.error
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tpforge.closing import Closing
from tpforge.errors import UsageError
from tpforge.system.opener import open_url, whole_answer
from triton_repo.client.channel import DeadlineExceeded, RequestRefused, ServerUnreachable
from triton_repo.client.other_answers import speaks_http2
from triton_repo.load.openai_target import CHAT, PLAIN, events_of, text_of

__all__ = ["CHAT", "PLAIN", "HttpRefused", "OpenAiClient", "OpenAiStream", "base_of", "text_of"]

DONE = "[DONE]"
_MAX_ERROR = 2000


class HttpRefused(RequestRefused):
    """The server answered with an HTTP error; `status` is its number, `body` what it said, as it said it."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"HTTP {status}: {body[:_MAX_ERROR]}")
        self.status, self.body = status, body


def base_of(url: str) -> str:
    """http://HOST:PORT[/BASE] of a URL that may lack the scheme, or have the path of the API.

    Raises:
        UsageError: it is something else.
    """
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is not http://HOST:PORT of an OpenAI-compatible server")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


@dataclass(frozen=True)
class OpenAiClient:
    """Asks the server at http://HOST:PORT; `deadline_s` bounds each wait for bytes."""

    url: str
    deadline_s: float = 60.0
    headers: Mapping[str, str] = field(default_factory=dict)

    def models(self) -> tuple[str, ...]:
        """The names that /v1/models lists.

        Raises:
            ServerUnreachable, DeadlineExceeded, HttpRefused: see `ask`.
            ValueError, KeyError, TypeError: the answer is not of OpenAI's form.
        """
        return tuple(str(model["id"]) for model in self.get("/v1/models")["data"])

    def only_model(self) -> str:
        """The one model that the server lists.

        Raises:
            ServerUnreachable, DeadlineExceeded, HttpRefused: see `ask`.
            UsageError: it is no OpenAI-compatible server, or lists none or several.
        """
        try:
            names = self.models()
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{self.url}: /v1/models does not answer as OpenAI's does ({type(error).__name__}: {error}); "
                "expected trtllm-serve, Dynamo or another OpenAI-compatible server"
            ) from error
        if len(names) != 1:
            raise UsageError(f"{self.url}: lists {len(names)} models ({', '.join(names)}); give --model")
        return names[0]

    def get(self, path: str) -> Any:
        """The JSON at a path.

        Raises:
            ServerUnreachable, DeadlineExceeded, HttpRefused: see `ask`.
            ValueError: it is no JSON.
        """
        with _errors(self), self._open(path, None) as answer:
            return json.loads(whole_answer(answer, url=self.url))

    def ask(self, path: str, body: Mapping[str, Any] | bytes) -> dict[str, Any]:
        """The whole JSON object that answers a POST; bytes are sent as they are.

        Raises:
            ServerUnreachable: nothing listens, or the connection broke.
            DeadlineExceeded: no byte came in time.
            HttpRefused: the server answered with an error.
            ValueError: the answer is no JSON object.
        """
        with _errors(self), self._open(path, _encoded(body)) as answer:
            value = json.loads(whole_answer(answer, url=self.url))
        if not isinstance(value, dict):
            raise ValueError(f"the answer is a {type(value).__name__}, expected an object")
        return value

    def stream(self, path: str, body: Mapping[str, Any]) -> OpenAiStream:
        """Ask for a stream; to be closed.

        Raises:
            ServerUnreachable, DeadlineExceeded, HttpRefused: see `ask`.
        """
        with _errors(self):
            return OpenAiStream(self, self._open(path, _encoded({**body, "stream": True})))

    def _open(self, path: str, body: bytes | None) -> http.client.HTTPResponse:
        return open_url(
            f"{base_of(self.url)}{path}",
            timeout_s=self.deadline_s,
            method="GET" if body is None else "POST",
            body=body,
            headers={"Content-Type": "application/json"},
            credentials=self.headers,
        )


class OpenAiStream(Closing):
    """The events of one streamed answer, as they come; `close` in mid-stream is a client that goes away."""

    def __init__(self, client: OpenAiClient, answer: http.client.HTTPResponse) -> None:
        self._client, self._answer = client, answer
        self.content_type = answer.headers.get_content_type()

    def __iter__(self) -> Iterator[str]:
        """The data of each event, until the connection ends.

        Raises:
            ServerUnreachable: it broke.
            DeadlineExceeded: no byte came in time.
        """
        with _errors(self._client):
            # `_lines` ends where the body ends: what follows [DONE], if anything, is seen too.
            for _, data in events_of(self._lines()):
                yield data

    def _lines(self) -> Iterator[tuple[float, bytes]]:
        while line := self._answer.readline():
            yield 0.0, line

    def close(self) -> None:
        """Drop the connection."""
        self._answer.close()


@contextmanager
def _errors(client: OpenAiClient) -> Iterator[None]:
    """What breaks on a connection, as our errors."""
    try:
        yield
    except urllib.error.HTTPError as error:
        with error:
            said = whole_answer(error, url=client.url).decode("utf-8", errors="replace")
        raise HttpRefused(error.code, said) from None
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
            raise DeadlineExceeded(f"{client.url}: nothing came for {client.deadline_s:g} s") from error
        if "BadStatusLine" in f"{type(error).__name__} {error}" and speaks_http2(client.url):
            raise ServerUnreachable(
                f"{client.url}: a gRPC server answers there, and not HTTP; leave out --api openai, or give "
                "the port of OpenAI's API"
            ) from error
        raise ServerUnreachable(f"{client.url}: {type(error).__name__}: {error}") from error


def _encoded(body: Mapping[str, Any] | bytes) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
