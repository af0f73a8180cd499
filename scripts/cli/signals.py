"""SIGINT, SIGTERM and SIGHUP as exceptions that unwind a command, so that everything is cleaned up.

It says nothing and ends nothing; `scripts.main` makes an exit status of what came.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_HEARD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminated(BaseException):
    """SIGTERM or SIGHUP came: unwinds like KeyboardInterrupt."""

    def __init__(self, number: int) -> None:
        self.exit_code = 128 + number


class Signals:
    """What came so far. An exception that is raised while C code imports may come out as another one."""

    def __init__(self) -> None:
        self.first: Terminated | KeyboardInterrupt | None = None
        self._is_deaf = False

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Raise what the signal means, and remember the first."""
        if self._is_deaf:
            return
        came = KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
        self.first = self.first or came
        raise came

    def ignore_more(self) -> None:
        """Raise no more: all that is left is to say how it ended."""
        self._is_deaf = True


@contextmanager
def raised() -> Iterator[Signals]:
    """Raise them while the block runs; one that is ignored, as SIGHUP is under nohup, stays so."""
    signals = Signals()
    heard = [number for number in _HEARD if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, signals.handle) for number in heard}
    try:
        yield signals
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
