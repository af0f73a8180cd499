"""What `serve` says of keys and addresses, and what a server is closed to without a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from triton_repo.serve.security import Security

KEY = "0123456789abcdef0123"


def key_file(folder: Path, *, mode: int) -> Path:
    path = folder / "admin.key"
    path.write_text(f"{KEY}\n")
    path.chmod(mode)
    return path


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_said_by_name(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path, mode=mode)
    first, second = Security(admin_key_file=path).warnings("127.0.0.1")
    assert first == f"{path}: can be read by other users of this machine (mode {mode:o}): chmod 600 it"
    assert "on its command line" in second


def test_a_key_of_the_user_alone_is_only_told_where_it_is_seen(tmp_path: Path) -> None:
    (only,) = Security(admin_key_file=key_file(tmp_path, mode=0o600)).warnings("localhost")
    assert "on its command line" in only


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "server.example"])
def test_an_open_address_without_tls_or_key_says_in_one_line_what_that_means(host: str) -> None:
    (only,) = Security().warnings(host)
    assert only.startswith(f"--host {host} without TLS (--tls-cert, --tls-key) and an administrator's key")
    assert "\n" not in only


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1"])
def test_this_machine_alone_needs_no_warning(host: str) -> None:
    assert Security().warnings(host) == ()


def test_without_a_key_shared_memory_is_closed_by_a_secret_of_every_start() -> None:
    one, other = Security().arguments(), Security().arguments()
    starts = [
        "--grpc-restricted-protocol=shared-memory:tpforge-closed=",
        "--http-restricted-api=shared-memory:tpforge-closed=",
    ]
    assert [word[: len(start)] for word, start in zip(one, starts, strict=True)] == starts
    assert len(one[0].rpartition("=")[2]) == 64
    assert one != other


def test_with_a_key_shared_memory_is_behind_it(tmp_path: Path) -> None:
    words = Security(admin_key_file=key_file(tmp_path, mode=0o600)).arguments()
    assert all("shared-memory," in word and word.endswith(f"={KEY}") for word in words)
    assert len(words) == 2
