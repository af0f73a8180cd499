"""Checks that a secured server refuses whom it should: no TLS, a foreign certificate, a missing or wrong key.

They run where the connection has TLS or a key; each is skipped where it has not what it needs.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tpforge.errors import TpforgeError
from triton_repo.client.client import Client, RequestRefused, Tls
from triton_repo.serve.security import GRPC_ADMIN_HEADER
from triton_repo.smoke.check import Check, Failed, Skipped, Target, expect

_DEADLINE_S = 5.0


def check_plain_text(target: Target) -> None:
    """A client without TLS gets nothing."""
    _tls(target)
    _expect_refused(target, None, what="a client without TLS")


def check_no_certificate(target: Target) -> None:
    """A client without a certificate gets nothing, where TLS is mutual."""
    tls = _mutual(target)
    _expect_refused(
        target,
        replace(tls, private_key=None, certificate_chain=None),
        what="a client without a certificate",
    )


def check_foreign_certificate(target: Target) -> None:
    """A client whose certificate the server's root has not signed gets nothing."""
    tls = _mutual(target)
    with foreign_certificate() as (certificate, key):
        foreign = replace(tls, private_key=key, certificate_chain=certificate)
        _expect_refused(target, foreign, what="a client with a certificate of its own making")


def check_missing_key(target: Target) -> None:
    """The administrator's protocols want the key."""
    _expect_closed(target, {}, what="without the key")


def check_wrong_key(target: Target) -> None:
    """Another key is none."""
    _expect_closed(target, {GRPC_ADMIN_HEADER: "x" * 32}, what="with another key")


def check_model_control(target: Target) -> None:
    """Nobody loads or unloads models over the network, the administrator neither."""
    _admin_key(target)
    try:
        target.client.unload("postprocessing")
    except RequestRefused as refused:
        expect("explicit model load / unload is not allowed" in str(refused), f"refused, but by: {refused}")
    else:
        raise Failed("a model was unloaded over the network")


@contextmanager
def foreign_certificate() -> Iterator[tuple[Path, Path]]:
    """A certificate that nobody trusts, and its key.

    Raises:
        Skipped: there is no openssl to make one.
    """
    if shutil.which("openssl") is None:
        raise Skipped("openssl is not on PATH, to make a certificate that the server must refuse")
    with TemporaryDirectory() as folder:
        certificate, key = Path(folder) / "cert.pem", Path(folder) / "key.pem"
        command = [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"),
            *("-subj", "/CN=foreign"),
            *("-keyout", str(key), "-out", str(certificate)),
        ]
        subprocess.run(command, check=True, capture_output=True)
        yield certificate, key


def _tls(target: Target) -> Tls:
    if target.tls is None:
        raise Skipped("the connection has no TLS")
    return target.tls


def _mutual(target: Target) -> Tls:
    tls = _tls(target)
    if tls.certificate_chain is None:
        raise Skipped("TLS is not mutual: the connection has no client certificate")
    return tls


def _admin_key(target: Target) -> str:
    key = target.headers.get(GRPC_ADMIN_HEADER)
    if key is None:
        raise Skipped(f"the connection has no header {GRPC_ADMIN_HEADER}")
    return key


def _expect_refused(target: Target, tls: Tls | None, *, what: str) -> None:
    with Client(target.client.url, deadline_s=_DEADLINE_S, headers=target.headers, tls=tls) as client:
        try:
            client.is_live()
        except TpforgeError:
            return
    raise Failed(f"{what} was answered")


def _expect_closed(target: Target, headers: dict[str, str], *, what: str) -> None:
    _admin_key(target)
    url = target.client.url
    with Client(url, deadline_s=_DEADLINE_S, headers=headers, tls=target.tls) as client:
        try:
            client.models()
        except RequestRefused as refused:
            expect("restricted" in str(refused), f"refused, but by: {refused}")
        else:
            raise Failed(f"the model repository was shown {what}")


SECURITY_CHECKS = (
    Check("security.plain_text", "a client without TLS is refused", check_plain_text),
    Check("security.no_certificate", "a client without a certificate is refused", check_no_certificate),
    Check("security.foreign_certificate", "a foreign certificate is refused", check_foreign_certificate),
    Check("security.missing_key", "administration without the key is refused", check_missing_key),
    Check("security.wrong_key", "administration with another key is refused", check_wrong_key),
    Check("security.model_control", "models cannot be unloaded over the network", check_model_control),
)
