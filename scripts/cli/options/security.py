"""The options of a server's security, and the record they make. Nothing is read but the files' presence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import Decorator, together

if TYPE_CHECKING:
    from triton_repo.serve.security import Security

_FILE = click.Path(path_type=Path)
_NAMES = {
    "tls_cert": "certificate",
    "tls_key": "private_key",
    "tls_root": "roots",
    "tls_client_root": "client_roots",
    "tls_name": "server_name",
    "admin_key_file": "admin_key_file",
}


def security_options() -> Decorator:
    """Who may speak to the server."""
    return together(
        click.option("--tls-cert", type=_FILE, metavar="FILE", help="gRPC by TLS: the certificate, PEM."),
        click.option("--tls-key", type=_FILE, metavar="FILE", help="Its private key, PEM."),
        click.option(
            "--tls-root",
            type=_FILE,
            metavar="FILE",
            help="What signed it.  [default: the certificate itself]",
        ),
        click.option(
            "--tls-client-root",
            type=_FILE,
            metavar="FILE",
            help="Serve only clients whose certificate it signed.",
        ),
        click.option("--tls-name", metavar="NAME", help="The name in the certificate, if not the host's."),
        click.option(
            "--admin-key-file",
            type=_FILE,
            metavar="FILE",
            help="Statistics, repository, trace, logging and shared memory only with this key as a header.",
        ),
    )


def read_security(values: dict[str, Any]) -> Security:
    """Take the values of `security_options` out of a command's, and make the record of them.

    Raises:
        UsageError: they do not go together, or a file is missing.
    """
    from triton_repo.serve.security import Security

    given = {name: values.pop(option) for option, name in _NAMES.items()}
    return Security(**given)
