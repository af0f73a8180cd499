"""A scripted server started in a process of its own, and the stamps of the tokens that it sent.

It knows no protocol: `scripted_server` speaks Triton's gRPC, `scripted_openai` HTTP.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Running:
    """A server that answers at `url`; `sent()` are the stamps of its tokens, request by request."""

    url: str
    log: Path
    process: subprocess.Popen[str]

    def sent(self) -> list[list[float]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def running(module: str, script: Any, *, folder: Path, host: str) -> Iterator[Running]:
    """The server of a module, which is told `script` and `folder` to log in, and prints its port."""
    log = folder / "sent.jsonl"
    command = [sys.executable, "-m", module, json.dumps({**asdict(script), "log": str(log)})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            port = int(process.stdout.readline())
            yield Running(f"{host}:{port}", log, process)
        finally:
            process.kill()
