"""TLS, mutual TLS and the administrator's key on the real tritonserver: who is served, and who is refused."""

from __future__ import annotations

import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import quiet
from tests.e2e.echo import write_echo
from tests.support.ended import end_server
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports
from tpforge.errors import EnvironmentUnusable, TpforgeError, UsageError
from triton_repo.client.client import Client, RequestRefused, Tls
from triton_repo.serve.local import ServeOptions, Server, serve, status
from triton_repo.serve.security import ADMIN_KEY, GRPC_ADMIN_HEADER, Security
from triton_repo.serve.state import state_file
from triton_repo.smoke.check import CheckResult, Target
from triton_repo.smoke.runner import run_checks
from triton_repo.smoke.security import SECURITY_CHECKS, foreign_certificate

pytestmark = pytest.mark.e2e
KEY = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Authority:
    """A root with a certificate for the server and one for a client."""

    root: Path
    server: tuple[Path, Path]
    client: tuple[Path, Path]


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not on PATH")
    folder = tmp_path_factory.mktemp("tls")
    root, root_key = folder / "root.pem", folder / "root.key"
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=tests"),
        *("-keyout", str(root_key), "-out", str(root)),
    )
    made = {}
    for name in ("server", "client"):
        key, request, certificate = (folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        extensions = folder / f"{name}.ext"
        extensions.write_text("subjectAltName=DNS:llm.example\nbasicConstraints=CA:FALSE\n")
        openssl(
            *("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}"),
            *("-keyout", str(key), "-out", str(request)),
        )
        openssl(
            *("x509", "-req", "-days", "2", "-in", str(request), "-CA", str(root), "-CAkey", str(root_key)),
            *("-CAcreateserial", "-extfile", str(extensions), "-out", str(certificate)),
        )
        made[name] = (certificate, key)
    return Authority(root, made["server"], made["client"])


@contextmanager
def secured(folder: Path, security: Security, *, host: str = "127.0.0.1") -> Iterator[Server]:
    options = ServeOptions(
        state_dir=folder / "name" / "server", ports=free_ports(), detach=True, security=security, host=host
    )
    server = serve(write_echo(folder / "repository"), options=options, progress=quiet)
    try:
        yield server
    finally:
        end_server(options.state_dir)


def mutual(authority: Authority, folder: Path) -> Security:
    (folder / "admin.key").write_text(f"{KEY}\n")
    return Security(
        certificate=authority.server[0],
        private_key=authority.server[1],
        roots=authority.root,
        client_roots=authority.root,
        server_name="llm.example",
        admin_key_file=folder / "admin.key",
    )


@pytest.fixture(scope="module")
def server(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mutual")
    with secured(folder, mutual(authority, folder)) as found:
        yield found


@pytest.fixture
def tls(authority: Authority) -> Tls:
    certificate, key = authority.client
    return Tls(authority.root, key, certificate, server_name="llm.example")


def test_a_client_with_a_signed_certificate_is_answered(server: Server, tls: Tls) -> None:
    with Client(server.grpc_url, tls=tls) as client:
        assert client.generate("x y", max_tokens=3).text == " x y x"


@pytest.mark.parametrize("who", ["no TLS", "no certificate", "foreign certificate", "another root"])
def test_every_other_client_is_refused(server: Server, tls: Tls, who: str) -> None:
    with foreign_certificate() as (certificate, key):
        given = {
            "no TLS": None,
            "no certificate": replace(tls, private_key=None, certificate_chain=None),
            "foreign certificate": replace(tls, private_key=key, certificate_chain=certificate),
            "another root": replace(tls, root_certificates=certificate),
        }[who]
        with Client(server.grpc_url, tls=given, deadline_s=5) as client, pytest.raises(TpforgeError):
            client.generate("x y", max_tokens=3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"server_name": None}, r"another name or address.*--tls-name"),
        ({"roots": "client"}, r"another name or address|signed by another.*--tls-root"),
    ],
    ids=["name", "root"],
)
def test_a_server_whose_certificate_does_not_prove_it_is_refused_at_once(
    changes: dict[str, str | None], words: str, authority: Authority, tmp_path: Path
) -> None:
    given = {name: authority.client[0] if value else None for name, value in changes.items()}
    with (
        pytest.raises(EnvironmentUnusable, match=words),
        secured(tmp_path, mutual(authority, tmp_path).model_copy(update=given)),
    ):
        pass


def test_administration_wants_the_key_and_inference_does_not(server: Server, tls: Tls) -> None:
    with Client(server.grpc_url, tls=tls) as client:
        assert client.is_live() and client.metadata("ensemble").inputs
        with pytest.raises(RequestRefused, match="restricted"):
            client.models()
    with (
        Client(server.grpc_url, tls=tls, headers={GRPC_ADMIN_HEADER: "x" * 32}) as client,
        pytest.raises(RequestRefused, match="restricted"),
    ):
        client.models()
    with Client(server.grpc_url, tls=tls, headers={GRPC_ADMIN_HEADER: KEY}) as client:
        assert [model.name for model in client.models()] == ["ensemble"]


def test_the_key_is_wanted_over_http_too(server: Server) -> None:
    url = f"{server.http_url}/v2/repository/index"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, data=b"{}", method="POST"), timeout=PATIENCE_S)
    assert caught.value.code == 403
    caught.value.close()
    request = urllib.request.Request(url, data=b"{}", method="POST", headers={ADMIN_KEY: KEY})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
        assert b'"ensemble"' in answer.read()


def test_smoke_proves_all_of_it(server: Server, tls: Tls) -> None:
    results: list[CheckResult] = []
    headers = {GRPC_ADMIN_HEADER: KEY}
    with Client(server.grpc_url, tls=tls, headers=headers) as client:
        run_checks(SECURITY_CHECKS, Target(client=client, headers=headers, tls=tls), on_result=results.append)
    assert {(result.name, result.status, result.reason) for result in results} == {
        (check.name, "pass", "") for check in SECURITY_CHECKS
    }


def test_smoke_fails_an_open_server_that_was_said_to_be_closed(tmp_path: Path) -> None:
    headers = {GRPC_ADMIN_HEADER: KEY}
    results: list[CheckResult] = []
    with secured(tmp_path, Security()) as server, Client(server.grpc_url, headers=headers) as client:
        run_checks(SECURITY_CHECKS, Target(client=client, headers=headers), on_result=results.append)
    found = {result.name: result.status for result in results}
    assert found["security.missing_key"] == found["security.wrong_key"] == "fail"
    assert found["security.plain_text"] == "skip"
    assert found["security.model_control"] == "pass", "models cannot be unloaded even without a key"


def test_with_tls_http_and_metrics_stay_on_this_machine(authority: Authority, tmp_path: Path) -> None:
    security = mutual(authority, tmp_path)
    with secured(tmp_path, security, host="0.0.0.0") as server:
        addresses = {
            connection.laddr.port: connection.laddr.ip
            for connection in psutil.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        ports = server.ports
        found = {name: addresses[port] for name, port in ports.named()}
    assert found.pop("gRPC") in ("0.0.0.0", "::", "::ffff:0.0.0.0")
    assert found == {"HTTP": "127.0.0.1", "metrics": "127.0.0.1"}


def test_the_state_file_holds_no_key(server: Server) -> None:
    assert KEY not in state_file(server.state_dir).read_text()
    found = status(server.state_dir)
    assert found.server is not None and found.server.security.has_tls


def test_half_a_configuration_is_refused(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="go together"):
        Security(certificate=authority.server[0])
    with pytest.raises(UsageError, match="need --tls-cert"):
        Security(client_roots=authority.root)
    with pytest.raises(UsageError, match="no such file: /nowhere"):
        Security(admin_key_file=Path("/nowhere"))
    (tmp_path / "short").write_text("secret")
    with pytest.raises(UsageError, match="16 or more printable characters"):
        Security(admin_key_file=tmp_path / "short").arguments()
