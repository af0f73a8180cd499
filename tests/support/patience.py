"""How long tests wait for what must happen: until it happens, or so long that it never will.

A limit here tells a hang from an answer and nothing else: no test says how fast anything is by it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 240.0
"""Less than the time that pytest gives a test, so that what was waited for is said."""


def wait_until(
    condition: Callable[[], object], what: str = "that it is so", *, every_s: float = 0.02
) -> None:
    """Return when `condition()` is true.

    Raises:
        AssertionError: it never is; `what` says what was waited for.
    """
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"it never came: {what}"
        time.sleep(every_s)
