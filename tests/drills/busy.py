"""Drill: more requests than slots for a long time, the liveness probe beside them. It starts no server."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

from tests.drills.figures import Figure
from tpforge.errors import TpforgeError
from triton_repo.client.client import Client
from triton_repo.serve.heartbeat import CANARY, EVERY_S, TIMEOUT_S
from triton_repo.serve.local import Server, status

NUM_STREAMS = 28
NUM_TOKENS = 200


def run(server: Server, *, hours: float) -> Figure:
    """A probe that fails would restart a server that only is busy; the supervisor's own looks count too."""
    figure = Figure(f"{NUM_STREAMS} streams for {hours * 60:.0f} min", "looks of the liveness probe")
    figure.bad = {"failed looks": 0, "failed requests": 0, "restarts": 0}
    stop, lock, answered = threading.Event(), threading.Lock(), [0]

    def stream() -> None:
        while not stop.is_set():
            try:
                with Client(server.grpc_url, deadline_s=300) as client:
                    client.generate("the capital of", max_tokens=NUM_TOKENS, min_tokens=NUM_TOKENS)
            except TpforgeError:
                with lock:
                    figure.count("failed requests")
            with lock:
                answered[0] += 1

    threads = [threading.Thread(target=stream, daemon=True) for _ in range(NUM_STREAMS)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + hours * 3600
    while time.monotonic() < end:
        begun = time.monotonic()
        figure.count("failed looks", int(_look(server) != 0))
        figure.took("to the probe's answer", time.monotonic() - begun)
        figure.num_tries += 1
        time.sleep(EVERY_S)
    stop.set()
    for thread in threads:
        thread.join()
    figure.count("restarts", status(server.state_dir).restarts)
    figure.notes.append(f"{answered[0]} requests of {NUM_TOKENS} tokens")
    return figure


def _look(server: Server) -> int:
    words = ["--url", server.http_url, "--metrics", server.metrics_url, "--timeout", str(TIMEOUT_S)]
    return subprocess.run(
        [sys.executable, "-I", "-S", str(CANARY), "--alive", *words], check=False
    ).returncode
