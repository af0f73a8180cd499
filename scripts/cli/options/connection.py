"""How a server is reached over gRPC: deadline, headers, TLS. It connects to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from scripts.cli.headers import parse_headers
from scripts.cli.options.common import Amount, Decorator, together

if TYPE_CHECKING:
    from triton_repo.client.client import Tls

_FILE = click.Path(path_type=Path)


def connection_options() -> Decorator:
    """How to reach a server over gRPC."""
    return together(
        click.option(
            "--deadline",
            type=Amount(min=0.1),
            default=60,
            show_default=True,
            help="Seconds a request may take.",
        ),
        click.option(
            "--header",
            "headers",
            multiple=True,
            metavar="NAME=VALUE",
            help="Header of every request, such as authorization; NAME=@FILE reads the value from a file.",
        ),
        click.option("--tls", is_flag=True, help="Use TLS, with the system's root certificates."),
        click.option("--tls-root", type=_FILE, metavar="FILE", help="Root certificates, PEM; implies --tls."),
        click.option("--tls-key", type=_FILE, metavar="FILE", help="The client's private key, PEM."),
        click.option("--tls-cert", type=_FILE, metavar="FILE", help="The client's certificates, PEM."),
    )


@dataclass(frozen=True)
class Connection:
    """The values of `connection_options`, as a client takes them."""

    deadline_s: float
    headers: dict[str, str]
    tls: Tls | None


def read_connection(
    *,
    deadline: float,
    headers: tuple[str, ...],
    tls: bool,
    tls_root: Path | None,
    tls_key: Path | None,
    tls_cert: Path | None,
) -> Connection:
    """The values of `connection_options`.

    Raises:
        UsageError: a header has no name, or its file cannot be read.
    """
    from triton_repo.client.client import Tls

    wanted = tls or any((tls_root, tls_key, tls_cert))
    return Connection(deadline, parse_headers(headers), Tls(tls_root, tls_key, tls_cert) if wanted else None)
