"""What Dynamo's front costs: one server asked by Triton's gRPC and through OpenAI's API, in turns.

Run it as ``python -m benchmarks.openai_front [--rounds 5] [--streams 1 8]``. It serves the demo model at
tp=1 by `tpforge`'s own commands, in a new folder. Every round asks both at each number of streams, so that
what else the machine does meets both; the ratios and differences are of the two in one round.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.convert import print_machine
from benchmarks.tables import head, line, spread
from tpforge.measure.runs.prompts import Prompt
from triton_repo.client.client import Client
from triton_repo.load.exchange import Target
from triton_repo.load.openai_target import OpenAiOptions, OpenAiTarget
from triton_repo.load.runner import Extent, run_repetition
from triton_repo.load.schedule import Closed
from triton_repo.load.triton_target import TritonOptions, TritonTarget, describe_model
from triton_repo.serve.ports import find_free_base

TEXT = "Once upon a time, in a land far away,"
NAME = "one"
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


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, str]]:
    """The demo model at tp=1 behind Triton and the front: their addresses."""
    base = find_free_base(start=21000, num_more=1)

    def tpforge(*words: str) -> None:
        command = [sys.executable, "-m", "tpforge", *words]
        subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)

    tpforge("setup", "openai")
    tpforge("build", "demo", "--tp", "1", "--name", NAME)
    tpforge("serve", NAME, "--openai", "--detach", "--port-base", str(base))
    try:
        yield f"localhost:{base + 1}", f"http://localhost:{base + 3}"
    finally:
        tpforge("stop", NAME)


async def compare(grpc_url: str, http_url: str, *, num_rounds: int, streams: Sequence[int]) -> None:
    """Ask in turns, and print a line a number of streams."""
    with Client(grpc_url) as client:
        described = describe_model(client, "ensemble")
    triton = TritonTarget(grpc_url, described, options=TritonOptions(sampling={"top_k": 1}))
    front = OpenAiTarget(http_url, NAME, options=OpenAiOptions(sampling={"temperature": 0}))
    for number_of in streams:
        pairs = []
        for number in range(num_rounds + 1):
            order = (triton, front) if number % 2 else (front, triton)
            taken = {target: await take(target, number_of) for target in order}
            if number:  # The first round warms both.
                pairs.append((taken[triton], taken[front]))
        print(_row(number_of, pairs), flush=True)


def _row(streams: int, pairs: Sequence[tuple[Taken, Taken]]) -> str:
    added = [front.ttft_ms - triton.ttft_ms for triton, front in pairs]
    kept = [front.tokens_per_s / triton.tokens_per_s for triton, front in pairs]
    return line(
        str(streams),
        spread([triton.ttft_ms for triton, _ in pairs], ".1f", unit="ms"),
        spread(added, "+.1f", unit="ms"),
        spread([triton.tokens_per_s for triton, _ in pairs], ".1f"),
        f"x {spread(kept, '.3f')}",
        str(len(pairs)),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8])
    given = parser.parse_args()
    columns = ("Triton: TTFT", "through the front", "Triton: tokens/s", "through the front", "n")
    with (
        tempfile.TemporaryDirectory(prefix="tpforge-bench-") as folder,
        served(Path(folder)) as (grpc_url, http_url),
    ):
        print(head("streams", *columns), flush=True)
        asyncio.run(compare(grpc_url, http_url, num_rounds=given.rounds, streams=given.streams))
    print_machine("openai_front")


if __name__ == "__main__":
    main()
