"""The opener, against servers that record what reaches them: who gets credentials, where redirects lead."""

from __future__ import annotations

import contextlib
import socket
import threading
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.patience import PATIENCE_S
from tpforge.errors import UsageError
from tpforge.system import opener
from tpforge.system.opener import RedirectRefused, open_url

SECRETS = {"Authorization": "Bearer secret", "X-Api-Key": "secret", "Cookie": "session=secret"}


class Recording(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, redirect: tuple[int, str] | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.redirect = redirect
        self.seen: list[tuple[str, str, HTTPMessage]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Recording

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path, self.headers))
        if self.server.redirect is not None and self.path == "/from":
            status, target = self.server.redirect
            self.send_response(status)
            self.send_header("Location", target)
        else:
            self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *_arguments: object) -> None: ...


@contextmanager
def server(redirect: tuple[int, str] | None = None) -> Iterator[Recording]:
    with Recording(redirect) as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def secrets_in(headers: HTTPMessage) -> set[str]:
    return {name for name in SECRETS if headers[name] is not None}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_another_origin_gets_no_credentials_and_the_rest_of_the_request(status: int, method: str) -> None:
    with server() as other, server((status, f"{other.url}/to")) as first:
        headers = {"Range": "bytes=7-"}
        open_url(
            f"{first.url}/from", timeout_s=5, method=method, headers=headers, credentials=SECRETS
        ).close()
    ((_, _, given),) = first.seen
    ((found_method, path, passed_on),) = other.seen
    assert secrets_in(given) == set(SECRETS)
    assert secrets_in(passed_on) == set()
    assert (found_method, path, passed_on["Range"]) == (method, "/to", "bytes=7-")


def test_the_same_origin_gets_them_again() -> None:
    with server((302, "/to")) as one:
        open_url(f"{one.url}/from", timeout_s=5, credentials=SECRETS).close()
    assert [(path, secrets_in(headers)) for _, path, headers in one.seen] == [
        ("/from", set(SECRETS)),
        ("/to", set(SECRETS)),
    ]


def test_credentials_that_were_dropped_do_not_come_back() -> None:
    with server() as last:
        with server((302, "")) as second, server((302, f"{second.url}/from")) as first:
            second.redirect = (302, f"{first.url}/to")
            open_url(f"{first.url}/from", timeout_s=5, credentials=SECRETS).close()
        assert [(path, secrets_in(headers)) for _, path, headers in first.seen] == [
            ("/from", set(SECRETS)),
            ("/to", set()),
        ]
        assert last.seen == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://a/x", "https://a:443/y", True),
        ("http://A/x", "http://a:80/", True),
        ("http://a/x", "https://a/x", False),
        ("https://a/x", "https://a:8443/x", False),
        ("https://a/x", "https://b.a/x", False),
        ("https://a/x", "https://a./x", False),
    ],
)
def test_an_origin_is_scheme_host_and_port(one: str, other: str, same: bool) -> None:
    assert (opener.origin(one) == opener.origin(other)) is same


@pytest.mark.parametrize("credentials", [SECRETS, {}])
def test_no_request_is_led_from_https_to_http(credentials: dict[str, str]) -> None:
    request = opener._Request("https://a/x", method="GET", headers={}, credentials=credentials)
    follow = opener._Redirects()
    with pytest.raises(RedirectRefused, match="http://a/y, without TLS, though the request was made with it"):
        follow.redirect_request(request, None, 302, "", HTTPMessage(), "http://a/y")
    following = follow.redirect_request(request, None, 302, "", HTTPMessage(), "https://a/y")
    assert following is not None and following.full_url == "https://a/y"


@pytest.mark.parametrize("target", ["ftp://127.0.0.1/x", "file:///etc/passwd", "data:text/plain,x"])
def test_a_redirect_to_another_scheme_is_refused(target: str) -> None:
    with server((302, target)) as one, pytest.raises(RedirectRefused, match="expected http or https"):
        open_url(f"{one.url}/from", timeout_s=5)


def test_a_redirect_with_a_password_is_refused_and_not_told() -> None:
    told = pytest.raises(RedirectRefused, match="holds a name or password")
    with server((302, "http://me:hush@127.0.0.1:1/x?sig=hush")) as one, told as caught:
        open_url(f"{one.url}/from", timeout_s=5)
    assert "hush" not in str(caught.value)


def test_a_body_is_not_sent_on() -> None:
    with server() as other, server((307, f"{other.url}/to")) as one:
        with pytest.raises(urllib.error.HTTPError) as caught:
            open_url(f"{one.url}/from", timeout_s=5, method="PUT", body=b"x", credentials=SECRETS)
        caught.value.close()
    assert caught.value.code == 307
    assert other.seen == []


@pytest.mark.parametrize("url", ["ftp://a/x", "file:///etc/passwd", "http:///x", "https://me:hush@a/x"])
def test_what_is_no_plain_url_of_the_web_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        open_url(url, timeout_s=5)
    assert "hush" not in str(caught.value)


def test_this_machine_is_never_asked_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with server() as proxy, server() as one:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        open_url(f"{one.url}/x", timeout_s=5, proxies="environment").close()
        open_url(f"http://elsewhere.invalid/{'y'}", timeout_s=5, proxies="environment").close()
        with pytest.raises(OSError):
            open_url("http://elsewhere.invalid/z", timeout_s=5)
    assert [path for _, path, _ in one.seen] == ["/x"]
    assert [path for _, path, _ in proxy.seen] == ["http://elsewhere.invalid/y"]


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost", True), ("a.localhost", True), ("127.0.0.1", True), ("127.0.0.2", True), ("::1", True),
        ("0.0.0.0", True), ("localhost.example.com", False), ("10.0.0.1", False), ("", False),
    ],
)  # fmt: skip
def test_this_machine_is_known_by_its_addresses(host: str, is_ours: bool) -> None:
    assert opener.is_this_machine(host) is is_ours


@pytest.mark.parametrize("said", [b"SSH-2.0-none\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"])
def test_a_port_that_speaks_no_http_or_breaks_off_is_an_error_of_the_network(said: bytes) -> None:
    def answer(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,), daemon=True)
        thread.start()
        with pytest.raises(OSError, match="no whole answer of HTTP"):
            opener.read_url(f"http://127.0.0.1:{listening.getsockname()[1]}/x", timeout_s=5)
        thread.join()


def test_the_connection_of_an_error_is_not_left_to_chance() -> None:
    """Python would close it when the error is collected, which may be much later, and warn."""

    def answer(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\ngone")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,), daemon=True)
        thread.start()
        with pytest.raises(urllib.error.HTTPError) as raised:
            opener.read_url(f"http://127.0.0.1:{listening.getsockname()[1]}/x", timeout_s=5)
        thread.join()
    assert raised.value.code == 404
    assert raised.value.fp.closed


@pytest.mark.parametrize(
    "head", ["", "Content-Length: 999999999999999999\r\n", "Transfer-Encoding: chunked\r\n"]
)
def test_an_answer_without_end_is_read_to_its_cap_alone(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opener, "MAX_ANSWER_BYTES", 1 << 20)
    sent = 0

    def answer(listening: socket.socket) -> None:
        nonlocal sent
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(4096)
            connection.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode())
            piece = b"10000\r\n" + b"x" * 65536 + b"\r\n" if "chunked" in head else b"x" * 65536
            while True:
                connection.sendall(piece)
                sent += len(piece)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,), daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/x"
        with pytest.raises(OSError, match=r"answers with more than 1 MiB"):
            opener.read_url(url, timeout_s=PATIENCE_S)
        thread.join()
    assert sent < 64 << 20
