#!/usr/bin/env python3
"""Asks Triton for one token over HTTP: exit status 0 when one came, 1 with the reason when not.

Triton calls a model ready whose process is dead, so a probe has to generate. Standard library only.
"""

import argparse
import json
import sys
import urllib.request

TOKENS = {"ensemble": "max_tokens", "tensorrt_llm": "sampling_param_max_tokens"}

parser = argparse.ArgumentParser()
parser.add_argument("--url", default="http://127.0.0.1:8000")
parser.add_argument("--model", default="ensemble", choices=sorted(TOKENS))
parser.add_argument("--timeout", type=float, default=10.0)
arguments = parser.parse_args()

body = json.dumps({"text_input": "Hello", TOKENS[arguments.model]: 1}).encode()
request = urllib.request.Request(
    f"{arguments.url}/v2/models/{arguments.model}/generate",
    data=body,
    headers={"Content-Type": "application/json"},
)
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    with opener.open(request, timeout=arguments.timeout) as answer:
        value = json.loads(answer.read())
except (OSError, ValueError) as error:
    sys.exit(f"canary: {error}")
if "text_output" not in value:
    sys.exit(f"canary: no text_output in {value}")
