"""A command of tpforge in a process of its own, ended when its time is over.

It judges nothing. What a command learns, and the state of its servers, lie in the folder of the acceptance.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from scripts.flows.accepting.records import Answer
from tpforge.system.programs import end_program

_END_S = 90.0
"""A server in the making is taken down in order; that may take this long."""


def run_tpforge(words: Sequence[str], folder: Path, limit_s: float) -> Answer:
    """Run a command in `folder` for at most `limit_s`; it is asked to end then, and killed if it does not."""
    own = folder.resolve()
    # Neither what this user has learned nor what the user serves is touched: stop --all stops ours alone.
    homes = {name: str(own / name.lower()) for name in ("XDG_DATA_HOME", "XDG_STATE_HOME")}
    # Engines lie in this folder, wherever the user's settings put others.
    environment = {**os.environ, **homes, "TPFORGE_OUT": "out"}
    # Files and not pipes: what a command leaves running, such as a server, must not keep us waiting.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as error:
        command = [sys.executable, "-m", "tpforge", *words]
        child = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=error
        )
        in_time = True
        try:
            child.wait(limit_s)
        except subprocess.TimeoutExpired:
            in_time = False
        finally:
            end_program(child, grace_s=_END_S)
        printed, said = (_text(file) for file in (out, error))
    try:
        value = json.loads(printed)
    except ValueError:
        value = {}
    # What it says of a failure comes last.
    return Answer(child.returncode, value if isinstance(value, dict) else {}, printed + said, in_time)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", errors="replace")
