"""What Dynamo's front costs: one server asked by Triton's gRPC and through OpenAI's API, in turns.

    tpforge serve ENGINE --openai --detach
    python -m benchmarks.openai_front localhost:8001 http://localhost:8003 MODEL --rounds 5

Every round asks both at 1, 8 and 32 streams, so that what else the machine does meets both; the ratios and
differences are of the two in one round. It starts no server.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from tpforge.measure.runs.prompts import Prompt
from triton_repo.client.client import Client
from triton_repo.load.exchange import Target
from triton_repo.load.openai_target import OpenAiOptions, OpenAiTarget
from triton_repo.load.runner import Extent, run_repetition
from triton_repo.load.schedule import Closed
from triton_repo.load.triton_target import TritonOptions, TritonTarget, describe_model

TEXT = "Once upon a time, in a land far away,"
STREAMS = (1, 8, 32)
NUM_TOKENS = 32
REQUESTS_A_STREAM = 3


@dataclass(frozen=True)
class Taken:
    """One protocol at one number of streams: the median time to the first token, and tokens a second."""

    ttft_ms: float
    tokens_per_s: float


async def take(target: Target, streams: int) -> Taken:
    """Ask `streams` at a time; every answer has the same number of tokens."""
    prompts = [Prompt(id="p", text=TEXT, max_tokens=NUM_TOKENS, min_tokens=NUM_TOKENS)]
    target.prepare(prompts)
    await target.open()
    extent = Extent(num_requests=streams * REQUESTS_A_STREAM)
    try:
        found = await run_repetition(
            target, Closed(streams), prompts, extent=extent, interrupt=asyncio.Event()
        )
    finally:
        await target.close()
    first: list[float] = []
    for exchange in found.exchanges:
        reading = target.read(exchange)
        if reading.failure is not None or exchange.sent is None:
            raise SystemExit(f"a request failed: {reading.failure}")
        first.append(next(piece.at for piece in reading.pieces if piece.text) - exchange.sent)
    begun = min(exchange.sent for exchange in found.exchanges if exchange.sent is not None)
    ended = max(exchange.ended for exchange in found.exchanges if exchange.ended is not None)
    return Taken(1000 * statistics.median(first), len(found.exchanges) * NUM_TOKENS / (ended - begun))


async def rounds(grpc_url: str, http_url: str, model: str, *, num_rounds: int) -> None:
    """Ask in turns, and print a line a number of streams."""
    with Client(grpc_url) as client:
        described = describe_model(client, "ensemble")
    triton = TritonTarget(grpc_url, described, options=TritonOptions(sampling={"top_k": 1}))
    front = OpenAiTarget(http_url, model, options=OpenAiOptions(sampling={"temperature": 0}))
    for streams in STREAMS:
        pairs = []
        for number in range(num_rounds + 1):
            order = (triton, front) if number % 2 else (front, triton)
            taken = {target: await take(target, streams) for target in order}
            if number:  # The first round warms both.
                pairs.append((taken[triton], taken[front]))
        print(_line(streams, pairs), flush=True)


def _line(streams: int, pairs: Sequence[tuple[Taken, Taken]]) -> str:
    added = [front.ttft_ms - triton.ttft_ms for triton, front in pairs]
    kept = [front.tokens_per_s / triton.tokens_per_s for triton, front in pairs]
    direct = statistics.median(triton.ttft_ms for triton, _ in pairs)
    speed = statistics.median(triton.tokens_per_s for triton, _ in pairs)
    return (
        f"{streams:2} streams  Triton: TTFT {direct:.1f} ms, {speed:.1f} tokens/s  through the front: "
        f"TTFT {statistics.median(added):+.1f} [{min(added):+.1f}, {max(added):+.1f}] ms, tokens/s x"
        f"{statistics.median(kept):.3f} [{min(kept):.3f}, {max(kept):.3f}]  n={len(pairs)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("grpc_url", help="HOST:PORT of Triton's gRPC")
    parser.add_argument("http_url", help="http://HOST:PORT of the front")
    parser.add_argument("model", help="the engine's name")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    asyncio.run(rounds(given.grpc_url, given.http_url, given.model, num_rounds=given.rounds))


if __name__ == "__main__":
    main()
