"""Ports for the servers of tests: no two processes of this machine get the same ones.

It opens no server. A port that was found free may be taken a moment later, by a test of another worker or of
another checkout; so a base is reserved first, for as long as the process lives.
"""

from __future__ import annotations

import random
import socket

from triton_repo.serve.ports import NUM_PORTS, Ports, find_free_base

_BASES = range(20000, 32000, 10)
"""Below those that Linux gives to clients (from 32768 on), which take any at any time."""
_reserved: list[socket.socket] = []


def free_ports(*, num_more: int = 0) -> Ports:
    """Three ports in a row that are free, and `num_more` after them; they stay this process's."""
    count = NUM_PORTS + num_more
    for base in random.SystemRandom().sample(_BASES, len(_BASES)):
        names = [_reserve(name) for name in range(base, base + count, _BASES.step)]
        if None not in names and find_free_base(start=base, num_more=num_more) == base:
            _reserved.extend(name for name in names if name is not None)
            return Ports.from_base(base)
        for name in names:
            if name is not None:
                name.close()
    raise AssertionError(f"no {count} free ports in a row from {_BASES.start} to {_BASES.stop}")


def _reserve(base: int) -> socket.socket | None:
    """A name in Linux's abstract namespace, which ends with us; None when somebody else has it."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0tpforge-test-ports-{base}")
    except OSError:
        name.close()
        return None
    return name
