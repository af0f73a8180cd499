"""triton_repo.client.other_answers: real servers of the other protocols are told apart, with advice."""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from scripts.main import main
from tests.support.certificates import make_certificate
from tests.support.servers.grpc_server import serving
from triton_repo.client.channel import Tls
from triton_repo.client.other_answers import what_answers


@contextmanager
def http_server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@contextmanager
def silent_server() -> Iterator[str]:
    """It accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def nobody(_request: object, _context: object) -> Iterator[object]:
    yield from ()


def test_http_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with http_server() as url:
        assert "an HTTP server answers there" in (what_answers(url, tls=None) or "")
        assert main(["generate", "hello", "--url", url, "--deadline", "5"]) == 3
        assert f"error: {url}: an HTTP server answers there, and not gRPC" in capsys.readouterr().err


def test_grpc_by_tls_is_told_apart_from_grpc_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, chain = make_certificate(tmp_path)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), chain.read_bytes())])
    with serving(nobody, credentials=credentials) as (_, url):
        assert what_answers(url, tls=Tls()) is None
        assert main(["generate", "hello", "--url", url, "--deadline", "5"]) == 3
        assert "answers there by TLS; give --tls" in capsys.readouterr().err
    with serving(nobody) as (_, url):
        assert what_answers(url, tls=None) is None
        assert main(["generate", "hello", "--url", url, "--tls", "--deadline", "5"]) == 3
        assert "without TLS answers there; leave out --tls" in capsys.readouterr().err


def test_nobody_and_a_silent_one_are_nothing_that_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton_repo.client.other_answers._TIMEOUT_S", 0.2)
    assert what_answers("localhost:1", tls=None) is None
    assert what_answers("localhost:http", tls=None) is None
    with silent_server() as url:
        assert what_answers(url, tls=None) is None
        assert what_answers(url, tls=Tls()) is None
