"""One process per rank, joined by torch.distributed: gloo on the CPU, NCCL on CUDA.

The parent tells every rank each batch over a socket of its own and takes the logits from the first
rank of the last stage. When any rank ends, all are killed and RankFailure names it.
What a rank does is in `worker`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from .batches import Batch, Move
from .config import EngineConfig
from .executor import RankFailure

START_TIMEOUT_S = 300
STEP_TIMEOUT_S = 120


class Processes:
    """Executor with a process for every rank; see Executor for its methods.

    Raises:
        RankFailure: a rank ended before it was ready, with the end of its error output.
    """

    def __init__(self, config: EngineConfig, *, num_slots: int, device: str, compute_dtype: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tpforge-ranks-"))
        self._children: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection[Any, Any]] = []
        # Opened once: a process that has no descriptor left must still notice that a rank ended.
        self._sentinels: list[int] = []
        self._reporter = (config.pp_size - 1) * config.tp_size
        self._vocab_size = config.vocab_size
        self._memory_kills = _num_memory_kills()
        try:
            for rank in range(config.world_size):
                arguments = [str(config.folder), str(rank), str(num_slots), device, compute_dtype]
                self._start(rank, arguments)
            for rank in range(config.world_size):
                self._await(rank, START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the ranks, in rank order."""
        return tuple(child.pid for child in self._children)

    def forward(self, batch: Batch) -> Tensor | None:
        """See Executor."""
        self._tell(batch)
        answer = self._await(self._reporter, STEP_TIMEOUT_S)
        if not answer:
            return None
        return torch.frombuffer(bytearray(answer), dtype=torch.float32).view(-1, self._vocab_size)

    def move(self, move: Move) -> None:
        """See Executor."""
        self._tell(move)

    def close(self) -> None:
        """See Executor."""
        for child in self._children:
            child.kill()
        for child in self._children:
            child.wait()
        for connection in self._connections:
            connection.close()
        for sentinel in self._sentinels:
            os.close(sentinel)
        self._children, self._connections, self._sentinels = [], [], []
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, rank: int, arguments: list[str]) -> None:
        ours, theirs = Pipe()
        # The package is `engines.reference` in the project and `reference` beside a Triton model.
        package = __package__ or ""
        root = Path(__file__).resolve().parents[package.count(".") + 1]
        python = sys.executable or shutil.which("python3") or "python3"
        command = [
            python,
            "-m",
            f"{package}.worker",
            *arguments,
            str(self._folder / "store"),
            str(theirs.fileno()),
        ]
        with (self._folder / f"rank{rank}.log").open("wb") as log:
            child = subprocess.Popen(
                command,
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(root)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[theirs.fileno()],
            )
        theirs.close()
        self._children.append(child)
        self._connections.append(ours)
        self._sentinels.append(os.pidfd_open(child.pid))

    def _tell(self, message: Batch | Move) -> None:
        for rank, connection in enumerate(self._connections):
            try:
                connection.send(message)
            except OSError:
                self._fail(rank, "ended")

    def _await(self, rank: int, timeout_s: float) -> bytes:
        """The next answer of `rank`, watching that no other rank ends meanwhile."""
        ready = wait([self._connections[rank], *self._sentinels], timeout=timeout_s)
        dead = [index for index, sentinel in enumerate(self._sentinels) if sentinel in ready]
        if dead:
            self._fail(dead[0], "ended")
        if not ready:
            self._fail(rank, f"did not answer within {timeout_s:.0f} s")
        try:
            return self._connections[rank].recv_bytes()
        except (EOFError, OSError):
            self._fail(rank, "ended")

    def _fail(self, rank: int, what: str) -> NoReturn:
        log = self._folder / f"rank{rank}.log"
        tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        code = self._children[rank].poll()
        how = "" if code is None else f" (signal {-code})" if code < 0 else f" (exit status {code})"
        number = _num_memory_kills() - self._memory_kills
        memory = f"; memory ran out, for which the kernel has killed {number} meanwhile" if number > 0 else ""
        self.close()
        raise RankFailure(": ".join([f"rank {rank} {what}{how}{memory}", *tail]))


def _num_memory_kills() -> int:
    """How many processes the kernel has killed on this machine because memory ran out; 0 where untold."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
