"""The one opener of http and https URLs: no proxy to this machine, credentials to one origin only.

It parses no answer and tries nothing again.
"""

from __future__ import annotations

import http.client
import ssl
import urllib.request
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Protocol, cast
from urllib.parse import urlsplit

from tpforge.errors import UsageError

Proxies = Literal["none", "environment"]

MAX_ANSWER_BYTES = 64 << 20
"""More is no answer that is read whole: metrics, settings and tokens of one request are far smaller."""

_PORTS = {"http": 80, "https": 443}
_FOLLOWED = (301, 302, 303, 307, 308)


class Readable(Protocol):
    """What a body is read from."""

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes, at most `size`; empty at the end."""


class RedirectRefused(OSError):
    """A server leads to where a request must not go."""


class _Request(urllib.request.Request):
    """A request that knows which of its headers are credentials."""

    def __init__(
        self,
        url: str,
        *,
        method: str,
        headers: Mapping[str, str],
        credentials: Mapping[str, str],
        body: bytes | Readable | None = None,
    ) -> None:
        super().__init__(url, data=cast(Any, body), method=method, headers={**headers, **credentials})
        self.plain, self.credentials = dict(headers), dict(credentials)


def open_url(
    url: str,
    *,
    timeout_s: float,
    method: str = "GET",
    body: bytes | Readable | None = None,
    headers: Mapping[str, str] | None = None,
    credentials: Mapping[str, str] | None = None,
    proxies: Proxies = "none",
    roots: Path | None = None,
) -> http.client.HTTPResponse:
    """The answer of a server, to be closed; GET and HEAD follow redirects.

    `credentials` are headers that go to the origin of `url` (scheme, host and port) and, after a redirect,
    nowhere else. `timeout_s` bounds each wait for the network. `proxies` "environment" takes the proxies of
    the environment for all hosts but this machine. `roots` are trusted certificates beside the system's, PEM.

    Raises:
        UsageError: `url` is not of http or https, or holds a name or password.
        urllib.error.HTTPError: the server answered with an error; an OSError.
        RedirectRefused: a redirect to another scheme, or from https to http; an OSError.
        OSError: nothing answers, or no server of HTTP.
    """
    if (problem := _problem(url)) is not None:
        raise UsageError(f"{_shown(url)}: {problem}")
    request = _Request(url, method=method, headers=headers or {}, credentials=credentials or {}, body=body)
    handlers: list[urllib.request.BaseHandler] = [_Redirects()]
    handlers.append(_Proxies(None if proxies == "environment" else {}))
    if roots is not None:
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=roots)))
    opener = urllib.request.build_opener(*handlers)
    try:
        return cast(http.client.HTTPResponse, opener.open(request, timeout=timeout_s))
    except http.client.HTTPException as error:
        raise _no_http(url, error) from error


def read_url(
    url: str,
    *,
    timeout_s: float,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    roots: Path | None = None,
) -> bytes:
    """All that a server answers; for small answers of a server that is ours or was named by its user.

    Raises:
        urllib.error.HTTPError: the server answered with an error, whose body is not read.
        UsageError, OSError: see `open_url`; an answer that breaks off is an OSError too.
    """
    try:
        answer = open_url(url, timeout_s=timeout_s, method=method, body=body, headers=headers, roots=roots)
    except urllib.error.HTTPError as error:
        error.close()
        raise
    with answer:
        try:
            return whole_answer(answer, url=url)
        except http.client.HTTPException as error:
            raise _no_http(url, error) from error


def whole_answer(answer: Readable, *, url: str) -> bytes:
    """All of a body, which may claim or bring whatever it likes.

    Raises:
        OSError: it does not end within `MAX_ANSWER_BYTES`.
    """
    data = answer.read(MAX_ANSWER_BYTES + 1)
    if len(data) > MAX_ANSWER_BYTES:
        raise OSError(f"{_shown(url)}: answers with more than {MAX_ANSWER_BYTES >> 20} MiB")
    # A part of what was announced is no error of `read` with a size; what is left of it is one of the next.
    return data + answer.read()


class _Proxies(urllib.request.ProxyHandler):
    """Proxies for other machines; this one is never asked for by way of another."""

    def proxy_open(self, req: urllib.request.Request, proxy: str, type: str) -> Any:
        if is_this_machine(urlsplit(req.full_url).hostname or ""):
            return None
        return super().proxy_open(req, proxy, type)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Goes where a server leads, keeping the method, and credentials for their origin only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        assert isinstance(req, _Request)
        if req.get_method() not in ("GET", "HEAD") or code not in _FOLLOWED:
            return None  # urllib makes an error of the answer.
        shown = f"{_shown(req.full_url)}: redirects to {_shown(newurl)}"
        if (problem := _problem(newurl)) is not None:
            raise RedirectRefused(f"{shown}, which {problem}")
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme == "http":
            raise RedirectRefused(f"{shown}, without TLS, though the request was made with it")
        keeps = origin(req.full_url) == origin(newurl)
        return _Request(
            newurl.replace(" ", "%20"),
            method=req.get_method(),
            headers=req.plain,
            credentials=req.credentials if keeps else {},
        )

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        # The standard library takes ftp too, and leaves the answer open when this raises.
        try:
            scheme = urlsplit(headers.get("location") or headers.get("uri") or "").scheme
            if scheme not in ("", *_PORTS):
                shown = _shown(req.full_url)
                raise RedirectRefused(f"{shown}: redirects to {scheme}:, expected http or https")
            return super().http_error_302(req, fp, code, msg, headers)
        except RedirectRefused:
            fp.close()
            raise
        except ValueError as error:  # Such as a port that is no number.
            fp.close()
            raise RedirectRefused(f"{_shown(req.full_url)}: redirects to what is no URL: {error}") from error

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


def is_this_machine(host: str) -> bool:
    """Whether a host's name or address is of this machine by itself, without asking a name server."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def origin(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)


def _no_http(url: str, error: http.client.HTTPException) -> OSError:
    return ConnectionError(f"{_shown(url)}: no whole answer of HTTP: {type(error).__name__}: {error}")


def _problem(url: str) -> str | None:
    parts = urlsplit(url)
    if parts.scheme not in _PORTS or not parts.hostname:
        return "is no URL of http or https"
    if parts.username is not None or parts.password is not None:
        return "holds a name or password; give credentials as a header"
    return None


def _shown(url: str) -> str:
    """The URL without what may be secret: name, password, and the query, which may hold a signature."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
