"""Asks one chat message by OpenAI's own Python client, whole and streamed; prints one JSON object.

It runs in Dynamo's environment, which has the client: ``python -m triton_repo.openai.asking URL MODEL TEXT``.
"""

from __future__ import annotations

import json
import sys
from typing import Any

MAX_TOKENS = 64
_TIMEOUT_S = 120.0


def ask(url: str, model: str, text: str) -> dict[str, Any]:
    """The whole answer, the pieces of the streamed one, and the counts of tokens of both."""
    from openai import OpenAI

    client = OpenAI(base_url=url, api_key="none", timeout=_TIMEOUT_S, max_retries=0)
    request: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }
    whole = client.chat.completions.create(**request)
    pieces, usage = [], None
    for chunk in client.chat.completions.create(
        **request, stream=True, stream_options={"include_usage": True}
    ):
        usage = chunk.usage or usage
        pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
    return {
        "answer": whole.choices[0].message.content,
        "finish_reason": whole.choices[0].finish_reason,
        "pieces": pieces,
        "usage": whole.usage.model_dump(exclude_none=True) if whole.usage else None,
        "streamed_usage": usage.model_dump(exclude_none=True) if usage else None,
    }


if __name__ == "__main__":
    print(json.dumps(ask(*sys.argv[1:])))
