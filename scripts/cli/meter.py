"""Shows how far a pass over weights is: a bar with GB/s and time left on a terminal, or a line now and then.

It measures nothing but the time between calls.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from scripts.cli.output import Output
from tpforge.units import format_bytes

_BAR_WIDTH = 24
_TERMINAL_PERIOD_S = 0.1
_LINE_PERIOD_S = 5.0


class ByteMeter:
    """Called with the bytes done and all of them; prints as often as the output can bear."""

    def __init__(
        self, output: Output, *, verb: str = "written", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._output = output
        self._verb = verb
        self._clock = clock
        self._started = self._shown = clock()
        self._first: int | None = None
        self._on_terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        """Show `done` of `total` bytes, when it is time to."""
        if self._first is None:
            # What an interrupted run had written was not written at this run's speed.
            self._first = done
        now = self._clock()
        period = _TERMINAL_PERIOD_S if self._on_terminal else _LINE_PERIOD_S
        if now - self._shown >= period:
            self._shown = now
            self._output.progress(self._text(done, total, now - self._started))

    def _text(self, done: int, total: int, seconds: float) -> str:
        speed = (done - (self._first or 0)) / seconds
        left = f"{(total - done) / speed:.0f} s left" if speed > 0 else "waiting"
        amount = f"{format_bytes(done)} of {format_bytes(total)}  {speed / 1e9:.2f} GB/s  {left}"
        if not self._on_terminal:
            return f"{self._verb} {amount}"
        filled = _BAR_WIDTH * done // max(1, total)
        return f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {amount}"
