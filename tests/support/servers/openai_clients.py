"""Many chats at once by OpenAI's own client; run by the Python of Dynamo's environment, which has it.

``python openai_clients.py URL MODEL REQUESTS CLIENTS`` prints ``half`` once half of them are over, and at the
end one JSON object: how many were whole, the errors, the longest time of any. It imports nothing of tpforge.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from openai import AsyncOpenAI, OpenAIError

TIMEOUT_S = 120.0


async def run(url: str, model: str, *, num_requests: int, num_clients: int) -> dict[str, Any]:
    """Ask, streamed and not in turn; an answer is whole when it says why it ended."""
    client = AsyncOpenAI(base_url=url, api_key="none", timeout=TIMEOUT_S, max_retries=0)
    places = asyncio.Semaphore(num_clients)
    errors: list[str] = []
    seconds: list[float] = []

    async def ask(number: int) -> None:
        request: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": f"Count to {number}"}],
            "max_tokens": 12,
            "temperature": 0,
        }
        async with places:
            begun = time.monotonic()
            try:
                reason = await (_stream(request) if number % 2 else _whole(request))
                if reason not in ("length", "stop"):
                    errors.append(f"cut: {reason}")
            except OpenAIError as error:
                errors.append(f"{type(error).__name__}: {error}")
            seconds.append(time.monotonic() - begun)
            if len(seconds) == num_requests // 2:
                print("half", flush=True)

    async def _stream(request: dict[str, Any]) -> str | None:
        reason = None
        async for chunk in await client.chat.completions.create(**request, stream=True):
            for choice in chunk.choices:
                reason = choice.finish_reason or reason
        return reason

    async def _whole(request: dict[str, Any]) -> str | None:
        reason: str | None = (await client.chat.completions.create(**request)).choices[0].finish_reason
        return reason

    await asyncio.gather(*(ask(number) for number in range(num_requests)))
    return {"num_whole": num_requests - len(errors), "errors": errors, "longest_s": max(seconds)}


if __name__ == "__main__":
    _, address, name, requests, clients = sys.argv
    print(json.dumps(asyncio.run(run(address, name, num_requests=int(requests), num_clients=int(clients)))))
