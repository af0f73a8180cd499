#!/usr/bin/env python3
"""Asks a server with OpenAI's API over HTTP whether it serves: exit status 0 when it does, 1 or 2 when not.

Without --alive: would a request be served in time? One token is asked for, and an overloaded server may
fail. With --alive: does the model make progress? A token comes, or trtllm-serve's own statistics tell of
iterations or of requests that ended; requests of users that stand before ours do not matter. Iterations are
told with enable_iter_perf_stats in llm.yaml, ended requests with return_perf_metrics; with both, the server
itself reads the iterations, and the time of the last one stands among its metrics. Reading the iterations
takes them away from others, so it is done only when no token comes. Standard library only.
"""

import argparse
import http.client
import json
import sys
import threading
import time
from urllib.parse import urlsplit

LOOK_S = 0.5
UNREACHED = 2
"""The exit status of --alive when nothing could be learned about the model."""
GIVEN_UP = ("cancel", "abort", "error")
"""What a client that goes away moves, or asks what is refused, on a server that stands still too."""

parser = argparse.ArgumentParser()
parser.add_argument("--url", default="http://127.0.0.1:8000")
parser.add_argument("--model", required=True)
parser.add_argument("--timeout", type=float, default=10.0)
parser.add_argument("--alive", action="store_true")
arguments = parser.parse_args()
END = time.monotonic() + arguments.timeout
PATIENCE_S = arguments.timeout / 5
"""For so long nothing but the token is waited for."""


class Unreached(OSError):
    """Nothing listens there, which may be the way to the server and not the server."""


def ask(method: str, path: str, body: bytes | None = None) -> str:
    """The text of an answer with status 200."""
    place = urlsplit(arguments.url)
    connect = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    connection = connect(place.netloc, timeout=max(0.1, END - time.monotonic()))
    try:
        connection.connect()
    except OSError as error:
        raise Unreached(f"{type(error).__name__}: {error}") from error
    try:
        connection.request(method, place.path.rstrip("/") + path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise ValueError(f"HTTP {answer.status} {answer.reason}: {text[:200]!r}")
    return text.decode()


def token() -> str | None:
    """Why no token came; None when one did."""
    body = {"model": arguments.model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
    try:
        value = json.loads(ask("POST", "/v1/completions", json.dumps(body).encode()))
    except Unreached:
        raise
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return None if value.get("choices") else f"no choices in {value}"


def iterations() -> bool:
    """Whether iterations were made since the last look."""
    try:
        return bool(json.loads(ask("GET", "/metrics")))
    except (OSError, ValueError, http.client.HTTPException):
        return False


def moved() -> list[str]:
    """The lines of the metrics that an iteration or the end of a request moves, but no client alone."""
    try:
        lines = ask("GET", "/prometheus/metrics").splitlines()
    except (OSError, ValueError, http.client.HTTPException):
        return []
    counts = [line for line in lines if line.startswith("trtllm_") and "_bucket" not in line]
    moving = ("_count", "_total", "_iteration_latency_seconds")
    counts = [line for line in counts if line.partition("{")[0].split()[0].endswith(moving)]
    return [line for line in counts if not any(word in line for word in GIVEN_UP)]


def alive() -> str | None:
    """Why no progress was seen; None when some was."""
    why: list[str | None] = []
    lost: list[str] = []

    def look() -> None:
        try:
            why.append(token())
        except Unreached as error:
            lost.append(str(error))

    asking = threading.Thread(target=look, daemon=True)
    asking.start()
    asking.join(PATIENCE_S)
    before: list[str] | None = None
    while time.monotonic() < END:
        if lost:
            print(f"canary: the server cannot be reached: {lost[0]}", file=sys.stderr)
            sys.exit(UNREACHED)
        if why:
            return why[0]
        stepped, now = iterations(), moved()
        # What the first look finds may have been there before the server stood still.
        if before is not None and (stepped or now != before):
            return None
        before = now
        asking.join(LOOK_S)
    return f"no progress within {arguments.timeout:g} s"


try:
    problem = alive() if arguments.alive else token()
except Unreached as error:
    problem = str(error)
sys.exit(problem and f"canary: {problem}")
