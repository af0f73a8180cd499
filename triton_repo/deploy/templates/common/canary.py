#!/usr/bin/env python3
"""Asks Triton for one token over HTTP: exit status 0 when one came, 1 with the reason when not.

Triton calls a model ready whose process is dead, so a probe has to generate. Standard library only.
"""

import argparse
import http.client
import json
import sys
from urllib.parse import urlsplit

TOKENS = {"ensemble": "max_tokens", "tensorrt_llm": "sampling_param_max_tokens"}

parser = argparse.ArgumentParser()
parser.add_argument("--url", default="http://127.0.0.1:8000")
parser.add_argument("--model", default="ensemble", choices=sorted(TOKENS))
parser.add_argument("--timeout", type=float, default=10.0)
arguments = parser.parse_args()

body = json.dumps({"text_input": "Hello", TOKENS[arguments.model]: 1}).encode()
place = urlsplit(arguments.url)
connect = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
try:
    connection = connect(place.netloc, timeout=arguments.timeout)
    where = f"{place.path.rstrip('/')}/v2/models/{arguments.model}/generate"
    connection.request("POST", where, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    if answer.status != http.HTTPStatus.OK:
        sys.exit(f"canary: HTTP {answer.status} {answer.reason}: {text[:200]!r}")
    value = json.loads(text)
except (OSError, ValueError, http.client.HTTPException) as error:
    sys.exit(f"canary: {type(error).__name__}: {error}")
if "text_output" not in value:
    sys.exit(f"canary: no text_output in {value}")
