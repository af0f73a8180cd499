#!/usr/bin/env python3
"""Asks Triton over HTTP whether it serves: exit status 0 when it does, 1 or 2 with the reason when not.

Without --alive: would a request be served in time? One token is asked for, and an overloaded server may
fail. With --alive: does the model make progress? Its own counter of steps moves, or the token comes;
requests of users that stand before ours do not matter. Triton calls a model ready whose process is dead,
so neither takes its word. Standard library only.
"""

import argparse
import http.client
import json
import sys
import threading
import time
from urllib.parse import urlsplit

TOKENS = {"ensemble": "max_tokens", "tensorrt_llm": "sampling_param_max_tokens"}
# Counters that only a model which generates moves: ours, and TensorRT-LLM's own.
PROGRESS = (("tpforge_model_progress", ""), ("nv_trt_llm_general_metrics", "iteration_counter"))
LOOK_S = 0.25
UNREACHED = 2
"""The exit status of --alive when nothing could be learned about the model."""
PATIENCE_S = 2.0
"""For so long --alive looks at the counters only, and adds nothing to the load."""

parser = argparse.ArgumentParser()
parser.add_argument("--url", default="http://127.0.0.1:8000")
parser.add_argument("--model", default="ensemble", choices=sorted(TOKENS))
parser.add_argument("--timeout", type=float, default=10.0)
parser.add_argument("--alive", action="store_true")
parser.add_argument("--metrics", default="http://127.0.0.1:8002/metrics", help="for --alive")
arguments = parser.parse_args()
END = time.monotonic() + arguments.timeout


class Unreached(OSError):
    """Nothing listens there, which may be the way to the server and not the server."""


def ask(url: str, method: str, path: str, body: bytes | None = None) -> str:
    """The text of an answer with status 200."""
    place = urlsplit(url)
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
    body = json.dumps({"text_input": "Hello", TOKENS[arguments.model]: 1}).encode()
    try:
        value = json.loads(ask(arguments.url, "POST", f"/v2/models/{arguments.model}/generate", body))
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{type(error).__name__}: {error}"
    return None if "text_output" in value else f"no text_output in {value}"


def counters() -> list[str]:
    """The lines of the metrics that tell of progress."""
    lines = ask(arguments.metrics, "GET", "").splitlines()
    return [line for line in lines for name, kind in PROGRESS if line.startswith(name) and kind in line]


def alive() -> str | None:
    """Why no progress was seen; None when some was."""
    first: list[str] | None = None
    why: list[str | None] = []
    asking = threading.Thread(target=lambda: why.append(token()), daemon=True)
    ask_at = time.monotonic() + PATIENCE_S
    while time.monotonic() < END:
        try:
            now = counters()
        except Unreached as error:
            print(f"canary: the metrics cannot be reached: {error}", file=sys.stderr)
            sys.exit(UNREACHED)
        except (OSError, ValueError, http.client.HTTPException) as error:
            return f"the metrics do not answer: {type(error).__name__}: {error}"
        if first is not None and now != first:
            return None
        first = now if first is None else first
        if why and (why[0] is None or not first):
            return why[0]
        if asking.ident is None and (not first or time.monotonic() >= ask_at):
            asking.start()
        time.sleep(LOOK_S)
    said = f"; the last word on a token: {why[0]}" if why else ""
    return f"no progress within {arguments.timeout:g} s{said}"


problem = alive() if arguments.alive else token()
sys.exit(problem and f"canary: {problem}")
