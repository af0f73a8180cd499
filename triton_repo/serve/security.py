"""Who may speak to a server: TLS and mutual TLS for gRPC, and a key for the protocols that administer it.

Triton has no TLS for HTTP and metrics: with TLS these listen on this machine only. It makes no certificates.
"""

from __future__ import annotations

import secrets
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import model_validator

from tpforge.errors import UsageError
from tpforge.records import Record
from tpforge.system.opener import is_this_machine

if TYPE_CHECKING:
    from triton_repo.client.channel import Tls

ADMIN_PROTOCOLS = "shared-memory,model-repository,statistics,trace,logging"
"""What can change or watch the server; inference, health and metadata stay open."""
ADMIN_KEY = "tpforge-admin"
GRPC_ADMIN_HEADER = f"triton-grpc-protocol-{ADMIN_KEY}"
LOOPBACK = "127.0.0.1"
KEY_PLACE = "{admin-key}"
"""Stands for the key in a command that is printed or kept in a file."""
_SHARED_MEMORY, _CLOSED = "shared-memory", "tpforge-closed"
_SMALLEST_KEY = 16
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Security(Record):
    """Files, all PEM but the key of the administrator, which is one line.

    `client_roots` makes TLS mutual: only clients whose certificate it has signed are served. `roots` signed
    the server's own certificate, and is what our supervisor checks it with; None is the certificate itself.
    """

    certificate: Path | None = None
    private_key: Path | None = None
    roots: Path | None = None
    client_roots: Path | None = None
    server_name: str | None = None
    admin_key_file: Path | None = None

    @model_validator(mode="after")
    def _check(self) -> Security:
        if (self.certificate is None) != (self.private_key is None):
            raise UsageError("--tls-cert and --tls-key go together: the server's certificate and its key")
        if self.certificate is None and (self.client_roots or self.roots or self.server_name):
            raise UsageError("--tls-client-root, --tls-root and --tls-name need --tls-cert and --tls-key")
        files = (self.certificate, self.private_key, self.roots, self.client_roots, self.admin_key_file)
        missing = [str(path) for path in files if path is not None and not path.is_file()]
        if missing:
            raise UsageError(f"no such file: {', '.join(missing)}")
        return self

    @property
    def has_tls(self) -> bool:
        """Whether gRPC is encrypted."""
        return self.certificate is not None

    def absolute(self) -> Security:
        """The same, for a process in another folder."""
        paths = {
            name: value.absolute()
            for name in type(self).model_fields
            if isinstance(value := getattr(self, name), Path)
        }
        return self.model_copy(update=paths)

    def client_tls(self) -> Tls | None:
        """How our own checks reach the server: with its own certificate where it wants one of a client."""
        if not self.has_tls:
            return None
        from triton_repo.client.channel import (
            Tls,  # gRPC is slow to import, and `tpforge --help` should not be.
        )

        return Tls(
            root_certificates=self.roots or self.certificate,
            private_key=self.private_key if self.client_roots else None,
            certificate_chain=self.certificate if self.client_roots else None,
            server_name=self.server_name,
        )

    def client_headers(self) -> dict[str, str]:
        """The header of the administrator, when there is a key."""
        key = self.read_admin_key()
        return {GRPC_ADMIN_HEADER: key} if key is not None else {}

    def warnings(self, host: str) -> tuple[str, ...]:
        """What whoever serves on `host` with these options should know, a line each."""
        found = [
            f"{path}: can be read by other users of this machine (mode {mode:o}): chmod 600 it"
            for path in (self.private_key, self.admin_key_file)
            if path is not None and (mode := stat.S_IMODE(path.stat().st_mode)) & _OTHERS
        ]
        if host == "0.0.0.0" or host == "::" or not is_this_machine(host):
            lacks = [] if self.has_tls else ["TLS (--tls-cert, --tls-key)"]
            lacks += [] if self.admin_key_file else ["an administrator's key (--admin-key-file)"]
            if lacks:
                found.append(
                    f"--host {host} without {' and '.join(lacks)}: whoever reaches this machine can ask the "
                    "server, and read or change what is not protected"
                )
        if self.admin_key_file is not None:
            found.append(
                "tritonserver takes the administrator's key on its command line, where the users of this "
                "machine can read it"
            )
        return tuple(found)

    def read_admin_key(self) -> str | None:
        """The key; None when the protocols are open.

        Raises:
            UsageError: it is too short to be a key, or cannot stand in a header.
        """
        if self.admin_key_file is None:
            return None
        key = self.admin_key_file.read_text(encoding="utf-8").strip()
        if len(key) < _SMALLEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
            raise UsageError(
                f"{self.admin_key_file}: expected one line of {_SMALLEST_KEY} or more printable characters, "
                "such as `openssl rand -hex 32` makes"
            )
        return key

    def http_host(self, host: str) -> str:
        """Where HTTP and metrics listen: they cannot be encrypted."""
        return LOOPBACK if self.has_tls else host

    def mounts(self) -> tuple[Path, ...]:
        """The files that tritonserver itself reads, for a container."""
        files = (self.certificate, self.private_key, self.client_roots)
        return tuple(path for path in files if path is not None)

    def fill_key(self, words: Iterable[str]) -> list[str]:
        """The words, with the key where its place is."""
        key = self.read_admin_key()
        return list(words) if key is None else [word.replace(KEY_PLACE, key) for word in words]

    def arguments(self) -> list[str]:
        """What a tritonserver on this machine is told.

        Without a key the registration of shared memory, by which a client reads and writes what other
        processes share, is closed by a secret that nobody is told.
        """
        words = self.fill_key(self.arguments_without_key())
        if self.admin_key_file is None:
            closed = f"{_SHARED_MEMORY}:{_CLOSED}={secrets.token_hex(32)}"
            words += [f"--grpc-restricted-protocol={closed}", f"--http-restricted-api={closed}"]
        return words

    def arguments_without_key(self) -> list[str]:
        """What tritonserver is told, with `KEY_PLACE` for the key: to be printed, or kept in a file."""
        words = []
        if self.has_tls:
            mutual = self.client_roots is not None
            words += [
                f"--grpc-use-ssl{'-mutual' if mutual else ''}=true",
                f"--grpc-server-cert={self.certificate}",
                f"--grpc-server-key={self.private_key}",
            ]
            words += [f"--grpc-root-cert={self.client_roots}"] if mutual else []
        if self.admin_key_file is not None:
            words.append(f"--grpc-restricted-protocol={ADMIN_PROTOCOLS}:{ADMIN_KEY}={KEY_PLACE}")
            words.append(f"--http-restricted-api={ADMIN_PROTOCOLS}:{ADMIN_KEY}={KEY_PLACE}")
        return words
