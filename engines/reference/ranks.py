"""One process per rank, joined by torch.distributed: gloo on the CPU, NCCL on CUDA.

The parent tells every rank each batch over a socket of its own and takes the logits from the first
rank of the last stage. When any rank ends, all are killed and RankFailure names it.
What a rank does is in `worker`; `rank_parent` forks them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
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
_END_TIMEOUT_S = 10
_TELL_TIMEOUT_S = 5
"""For so long it is waited for how a rank ended that has ended."""
_PARENT_LOG = "ranks.log"


class Processes:
    """Executor with a process for every rank; see Executor for its methods.

    Raises:
        RankFailure: a rank ended before it was ready, with the end of its error output.
    """

    def __init__(self, config: EngineConfig, *, num_slots: int, device: str, compute_dtype: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="tpforge-ranks-"))
        self._parent: subprocess.Popen[bytes] | None = None
        self._told: Connection[Any, Any] | None = None
        self._pids: tuple[int, ...] = ()
        self._exit_codes: dict[int, int] = {}
        self._connections: list[Connection[Any, Any]] = []
        # Opened once: a process that has no descriptor left must still notice that a rank ended.
        self._sentinels: list[int] = []
        self._reporter = (config.pp_size - 1) * config.tp_size
        self._vocab_size = config.vocab_size
        self._memory_kills = _num_memory_kills()
        try:
            self._start([str(config.folder), str(num_slots), device, compute_dtype], config.world_size)
            for rank in range(config.world_size):
                self._await(rank, START_TIMEOUT_S)
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> tuple[int, ...]:
        """The process ids of the ranks, in rank order."""
        return self._pids

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
        for sentinel in self._sentinels:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(sentinel, signal.SIGKILL)
        if self._parent is not None:
            if len(self._sentinels) < len(self._connections):
                self._parent.kill()  # The ranks that it has by now end with it.
            try:  # It ends when it has waited for all of them.
                self._parent.wait(_END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._parent.kill()
                self._parent.wait()
        for connection in (*self._connections, *filter(None, [self._told])):
            connection.close()
        for sentinel in self._sentinels:
            os.close(sentinel)
        self._parent, self._told, self._connections, self._sentinels = None, None, [], []
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, arguments: list[str], world_size: int) -> None:
        pipes = [Pipe() for _ in range(world_size)]
        self._connections = [ours for ours, _ in pipes]
        self._told, telling = Pipe()
        # The package is `engines.reference` in the project and `reference` beside a Triton model.
        package = __package__ or ""
        root = Path(__file__).resolve().parents[package.count(".") + 1]
        python = sys.executable or shutil.which("python3") or "python3"
        theirs = [telling, *(end for _, end in pipes)]
        descriptors = [end.fileno() for end in theirs]
        command = [python, "-m", f"{package}.rank_parent", *arguments, str(self._folder)]
        with (self._folder / _PARENT_LOG).open("wb") as log, ExitStack() as ours_no_more:
            for end in theirs:
                ours_no_more.enter_context(end)
            self._parent = subprocess.Popen(
                [*command, *map(str, descriptors)],
                cwd=root,
                env={**os.environ, "PYTHONPATH": str(root)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
            )
        self._watch(self._told)

    def _watch(self, told: Connection[Any, Any]) -> None:
        """Learn which processes the ranks are, and hold on to each."""
        try:
            if not told.poll(START_TIMEOUT_S):
                self._fail(None, f"did not start within {START_TIMEOUT_S} s")
            self._pids = told.recv()
            self._sentinels = []
            for pid in self._pids:
                self._sentinels.append(os.pidfd_open(pid))
            told.send("watched")
        except (EOFError, ConnectionError):
            self._fail(None, "ended")

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

    def _fail(self, rank: int | None, what: str) -> NoReturn:
        """Say how a rank failed, or with None the process that forks them, and kill all."""
        log = self._folder / (_PARENT_LOG if rank is None else f"rank{rank}.log")
        code = self._exit_code(rank, has_ended=what == "ended")
        tail = log.read_text(errors="replace").strip().splitlines()[-1:] if log.exists() else []
        how = "" if code is None else f" (signal {-code})" if code < 0 else f" (exit status {code})"
        number = _num_memory_kills() - self._memory_kills
        memory = f"; memory ran out, for which the kernel has killed {number} meanwhile" if number > 0 else ""
        self.close()
        who = "the process of the ranks" if rank is None else f"rank {rank}"
        raise RankFailure(": ".join([f"{who} {what}{how}{memory}", *tail]))

    def _exit_code(self, rank: int | None, *, has_ended: bool) -> int | None:
        """How a rank ended, or the process that forks them; None while it runs."""
        assert self._parent is not None and self._told is not None
        if rank is None:
            with suppress(subprocess.TimeoutExpired):
                return self._parent.wait(_TELL_TIMEOUT_S)
            return None
        # Its connection may be closed a moment before it has ended.
        if not wait([self._sentinels[rank]], timeout=_TELL_TIMEOUT_S if has_ended else 0):
            return None
        with suppress(EOFError, OSError):
            while rank not in self._exit_codes and self._told.poll(_TELL_TIMEOUT_S):
                ended, code = self._told.recv()
                self._exit_codes[ended] = code
        return self._exit_codes.get(rank)


def _num_memory_kills() -> int:
    """How many processes the kernel has killed on this machine because memory ran out; 0 where untold."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
