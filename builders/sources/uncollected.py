"""Reads large tables without Python's search for cycles, of which they have none.

Of a header of 70,000 tensors the search takes as long as reading it. Nothing is read here.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Cycles are left alone for as long as the context lasts."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
