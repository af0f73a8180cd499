"""Commands of tpforge as processes that start at once, with what they say and a limit to their time.

They are forked by a process that has all of it loaded: loading takes longer than most of them do.
"""

from __future__ import annotations

import os
import threading
from multiprocessing.connection import Connection
from pathlib import Path

from scripts.main import main
from tests.support.forked import FORKING


def run_watched(words: list[str], *, limit_s: float) -> tuple[int | None, str]:
    """The exit status of a command, None when it had to be killed, and all that it said."""
    said, saying = FORKING.Pipe(duplex=False)
    child = FORKING.Process(target=_child, args=(words, str(Path.cwd()), saying))
    with said:
        child.start()
        saying.close()
        # What holds the pipe open is killed too: reading ends with the child.
        limit = threading.Timer(limit_s, child.kill)
        limit.start()
        with open(said.fileno(), "rb", closefd=False) as text:
            found = text.read().decode(errors="replace")
        child.join()
    is_late = not limit.is_alive()
    limit.cancel()
    return None if is_late else child.exitcode, found


def _child(words: list[str], folder: str, saying: Connection) -> None:
    os.chdir(folder)
    for number in (1, 2):
        os.dup2(saying.fileno(), number)
    status = main(words)
    os._exit(status)
