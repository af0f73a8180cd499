"""What a supervisor is told: which repository or command, where, and for how long its models may load.

It travels as JSON to a detached supervisor; nothing is started here.
"""

from __future__ import annotations

from pathlib import Path

from tpforge.records import Record
from triton_repo.serve.companions import Companion
from triton_repo.serve.launched import LaunchedProgram
from triton_repo.serve.ports import Ports
from triton_repo.serve.security import Security
from triton_repo.serve.tritonserver import DRAIN_S


class ServerPlan(Record):
    """What to serve, where, and how long its models may take to load; `launch` is a command of its own."""

    repository: Path
    state_dir: Path
    ports: Ports
    host: str
    tritonserver: Path | None = None
    load_timeout_s: float
    security: Security = Security()
    launch: LaunchedProgram | None = None
    drain_s: float = DRAIN_S
    companions: tuple[Companion, ...] = ()
