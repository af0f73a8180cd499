"""The three ports of a server, and who holds one that is not free.

It opens no server; it tries to bind, before Triton does, because Triton finds out last, and to connect.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from tpforge.errors import EnvironmentUnusable, UsageError
from tpforge.records import Record

LAST_PORT = 65535
NUM_PORTS = 3
_CONNECT_TIMEOUT_S = 5.0


class NamedPort(Record):
    """A port with the name of what it serves, and the option that moves it."""

    name: str
    port: int
    host: str = "127.0.0.1"
    option: str = "--port-base"


class Ports(Record):
    """Where a server listens."""

    http: int = 8000
    grpc: int = 8001
    metrics: int = 8002

    @classmethod
    def from_base(cls, base: int) -> Ports:
        """HTTP on `base`, gRPC on the next one, metrics on the one after.

        Raises:
            UsageError: one of them would be no port.
        """
        if not 1 <= base <= LAST_PORT - (NUM_PORTS - 1):
            raise UsageError(f"port base {base} is not between 1 and {LAST_PORT - NUM_PORTS + 1}")
        return cls(http=base, grpc=base + 1, metrics=base + 2)

    def named(self) -> tuple[tuple[str, int], ...]:
        """Each port with the name of what it serves."""
        return (("HTTP", self.http), ("gRPC", self.grpc), ("metrics", self.metrics))


def refuse_used(ports: Ports, *, host: str, others: Sequence[NamedPort] = ()) -> None:
    """Raise unless all ports can be listened on, those of `others` on their own addresses.

    Raises:
        EnvironmentUnusable: names each port that is in use and the process that has it.
    """
    own = [NamedPort(name=name, port=port, host=host) for name, port in ports.named()]
    problems, options = [], dict[str, None]()
    for wanted in (*own, *others):
        name, port, host = wanted.name, wanted.port, wanted.host
        number = _bind_error(host, port)
        if number is not None:
            options[wanted.option] = None
        if number == errno.EADDRINUSE:
            problems.append(f"port {port} ({name}) is in use by {_owner(port)}")
        elif number == errno.EACCES:
            problems.append(f"port {port} ({name}) needs more permission; use ports from 1024 on")
        elif number == errno.EADDRNOTAVAIL:
            problems.append(f"port {port} ({name}): this machine has no address {host}")
        elif number is not None:
            problems.append(f"port {port} ({name}): {errno.errorcode.get(number, number)}")
    if problems:
        raise EnvironmentUnusable(
            "; ".join(problems) + "; stop that process (`tpforge stop` for a server of ours), "
            f"or choose other ports with {', '.join(options)}"
        )


def is_listened_on(port: NamedPort) -> bool:
    """Whether a program on this machine takes connections there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(port.host, port.host)
    try:
        socket.create_connection((host, port.port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True


def find_free_base(*, start: int = 8000, host: str = "127.0.0.1", num_more: int = 0) -> int:
    """The first base from `start` on, in steps of ten, with three ports and `num_more` after them free."""
    count = NUM_PORTS + num_more
    for base in range(start, LAST_PORT - count, 10):
        if all(_bind_error(host, port) is None for port in range(base, base + count)):
            return base
    raise EnvironmentUnusable(f"no {count} free ports in a row from {start} on")


def _bind_error(host: str, port: int) -> int | None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # Connections that ended a moment ago (TIME_WAIT) do not count; a listening socket still does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error.errno
    return None


def _owner(port: int) -> str:
    import psutil

    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        connections = []
    for connection in connections:
        if connection.status != psutil.CONN_LISTEN or connection.laddr.port != port or not connection.pid:
            continue
        try:
            return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
        except psutil.NoSuchProcess:
            continue
    return "a process of another user"
