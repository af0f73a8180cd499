#!/usr/bin/env python3
"""Asks NVIDIA Dynamo over HTTP whether it serves: exit status 0 when it does, 1 with the reason when not.

A front is asked for one token of --model, with --listed whether it knows the model; with --health a worker is
asked what it says of itself. Standard library only.
"""

import argparse
import http.client
import json
import sys
from urllib.parse import urlsplit

parser = argparse.ArgumentParser()
parser.add_argument("--url", required=True, help="http://HOST:PORT")
parser.add_argument("--model", help="by which name clients ask for it")
parser.add_argument("--timeout", type=float, default=30.0)
parser.add_argument("--listed", action="store_true")
parser.add_argument("--health", action="store_true")
arguments = parser.parse_args()


def ask(path: str, body: object = None) -> str:
    """The text of an answer with status 200."""
    connection = http.client.HTTPConnection(urlsplit(arguments.url).netloc, timeout=arguments.timeout)
    try:
        method, sent = ("GET", None) if body is None else ("POST", json.dumps(body))
        connection.request(method, path, sent, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    finally:
        connection.close()
    if answer.status != http.HTTPStatus.OK:
        raise ValueError(f"HTTP {answer.status} {answer.reason}: {text[:200]!r}")
    return text


def look() -> None:
    """Raise what is wrong."""
    if arguments.health:
        ask("/health")
    elif arguments.listed:
        known = [str(model["id"]) for model in json.loads(ask("/v1/models"))["data"]]
        if arguments.model not in known:
            raise ValueError(f"it knows {', '.join(known) or 'no model'}, expected {arguments.model}")
    else:
        body = {"model": arguments.model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
        json.loads(ask("/v1/completions", body))["choices"][0]


try:
    look()
except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
    sys.exit(f"{arguments.url}: {type(error).__name__}: {error}")
