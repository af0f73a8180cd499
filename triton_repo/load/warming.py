"""Each prompt asked once for a single token before a run, so that every repeat finds the server equally warm.

Nothing is measured here, and nothing of it is kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from tpforge.measure.runs.prompts import Prompt
from triton_repo.load.exchange import Exchange, Failure, Target

_GIVE_UP = ("timeout", "unreachable", "broken")
"""After one of these the others would only wait as long."""


async def warm(target: Target, prompts: Sequence[Prompt], interrupt: asyncio.Event) -> str | None:
    """Ask them one after another; why it stopped before the last, if it did."""
    short = [
        prompt.model_copy(update={"id": f"warm {prompt.id}", "max_tokens": 1, "min_tokens": None})
        for prompt in prompts
    ]
    target.prepare(short)
    for number, prompt in enumerate(short):
        if interrupt.is_set():
            return "the run was interrupted"
        failure = await _ask(target, prompt, number, interrupt)
        if failure is not None and failure.kind in _GIVE_UP:
            return f"{prompt.id}: {failure.kind}: {failure.message}"
    return None


async def _ask(target: Target, prompt: Prompt, number: int, interrupt: asyncio.Event) -> Failure | None:
    clock = asyncio.get_running_loop().time
    exchange = Exchange(index=number, phase="warmup", prompt=prompt, scheduled=clock())
    asked = asyncio.ensure_future(target.run(exchange))
    stopped = asyncio.ensure_future(interrupt.wait())
    await asyncio.wait((asked, stopped), return_when=asyncio.FIRST_COMPLETED)
    for task in (asked, stopped):
        task.cancel()
    await asyncio.gather(asked, stopped, return_exceptions=True)
    return exchange.failure
