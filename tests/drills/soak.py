"""Drill: eight streams for a long time; memory, threads, descriptors and shared memory at start and end."""

from __future__ import annotations

import threading
import time
from contextlib import suppress

import psutil

from tests.drills.figures import Figure
from tpforge.errors import TpforgeError
from triton_repo.client.client import Client
from triton_repo.serve.local import Server
from triton_repo.serve.processes import SHARED_MEMORY, marked
from triton_repo.serve.state import read_state

WARM_UP_SHARE = 0.25
"""Allocators and caches fill at first: what counts as the start comes after this share of the time."""
MAX_GROWTH = {"MiB resident": 1.05, "threads": 1.0, "descriptors": 1.02, "MiB shared": 1.0}


def run(server: Server, *, hours: float) -> Figure:
    """Growth of any of them, over all processes of the server together, is a failure."""
    figure = Figure(f"soak of {hours * 60:.0f} min", "requests", bad={"failed": 0})
    figure.bad |= {f"growth of {name}": 0 for name in MAX_GROWTH}
    stop, lock = threading.Event(), threading.Lock()

    def stream() -> None:
        while not stop.is_set():
            try:
                with Client(server.grpc_url, deadline_s=120) as client:
                    client.generate("the capital of", max_tokens=64)
            except TpforgeError:
                with lock:
                    figure.count("failed")
            with lock:
                figure.num_tries += 1

    threads = [threading.Thread(target=stream, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(hours * 3600 * WARM_UP_SHARE)
    first = _usage(server)
    time.sleep(hours * 3600 * (1 - WARM_UP_SHARE))
    last = _usage(server)
    stop.set()
    for thread in threads:
        thread.join()
    for name, limit in MAX_GROWTH.items():
        figure.count(f"growth of {name}", int(last[name] > first[name] * limit))
        figure.notes.append(f"{name} {first[name]:.0f} to {last[name]:.0f}")
    return figure


def _usage(server: Server) -> dict[str, float]:
    state = read_state(server.state_dir)
    assert state is not None
    found = dict.fromkeys(MAX_GROWTH, 0.0)
    for pid in [server.pid, *(process.pid for process in marked(state.mark))]:
        with suppress(psutil.NoSuchProcess, FileNotFoundError):
            process = psutil.Process(pid)
            found["MiB resident"] += process.memory_info().rss / 2**20
            found["threads"] += process.num_threads()
            found["descriptors"] += process.num_fds()
    regions = SHARED_MEMORY.glob(f"{state.mark}_*")
    found["MiB shared"] = sum(region.stat().st_blocks for region in regions) * 512 / 2**20
    return found
