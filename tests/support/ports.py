"""Ports for the servers of tests: no two processes of this machine get the same ones.

It opens no server. A port that was found free may be taken a moment later, by a test of another worker or of
another checkout; so a base is reserved first, for as long as the process lives.
"""

from __future__ import annotations

import random
import socket

from triton_repo.serve.ports import Ports, find_free_base

_BASES = range(20000, 32000, 10)
"""Below those that Linux gives to clients (from 32768 on), which take any at any time."""
_reserved: list[socket.socket] = []


def free_ports() -> Ports:
    """Three ports in a row that are free, and stay this process's."""
    for base in random.SystemRandom().sample(_BASES, len(_BASES)):
        if _reserve(base) and find_free_base(start=base) == base:
            return Ports.from_base(base)
    raise AssertionError(f"no three free ports in a row from {_BASES.start} to {_BASES.stop}")


def _reserve(base: int) -> bool:
    """Whether nobody else had reserved it: a name in Linux's abstract namespace, which ends with us."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0tpforge-test-ports-{base}")
    except OSError:
        name.close()
        return False
    _reserved.append(name)
    return True
