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
from triton_repo.client.channel import ServerUnreachable, Tls, translate
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


def test_http2_that_is_not_grpc_is_told_apart() -> None:
    """As the front of OpenAI's API answers: by HTTP/2, with a status of HTTP and none of gRPC."""

    class Answer(grpc.RpcError):
        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.UNIMPLEMENTED

        def details(self) -> str:
            return "Received http2 header with status: 404"

    found = translate(Answer(), url="localhost:8003", deadline_s=5)
    assert isinstance(found, ServerUnreachable)
    assert "localhost:8003: an HTTP server answers there, and not gRPC" in str(found)


def test_grpc_is_told_apart_from_the_api_of_openai(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(nobody) as (_, url):
        assert main(["smoke", f"http://{url}", "--api", "openai", "--deadline", "5"]) == 3
        assert f"http://{url}: a gRPC server answers there, and not HTTP" in capsys.readouterr().err
        assert main(["smoke", f"http://{url}"]) == 2
        assert "smoke and bench take http:// with --api openai" in capsys.readouterr().err


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
