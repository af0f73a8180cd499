"""The load generator beside a bare tritonclient loop, against a model that costs next to nothing.

The model is decoupled and answers a request with so many one-word responses as fast as Triton takes them.
In each round the loops take turns, so that a machine whose speed drifts favours none; the bare loop is
tritonclient's asyncio client, which counts the responses and does nothing else. It shows what stamping
and keeping every token costs. Run it as ``python -m benchmarks.load_generator``.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc import aio as tritonclient

from benchmarks.tables import head, line, spread
from tpforge.measure.runs.prompts import Prompt
from triton_repo.client.client import Client
from triton_repo.load.runner import Extent, run_repetition
from triton_repo.load.schedule import Closed
from triton_repo.load.triton_target import TritonOptions, TritonTarget, describe_model
from triton_repo.serve.local import ServeOptions, serve, stop
from triton_repo.serve.ports import Ports, find_free_base

CONFIG = """name: "ensemble"
backend: "python"
max_batch_size: 8
model_transaction_policy { decoupled: true }
input [
  { name: "text_input" data_type: TYPE_STRING dims: [1] },
  { name: "max_tokens" data_type: TYPE_INT32 dims: [1] },
  { name: "stream" data_type: TYPE_BOOL dims: [1] optional: true },
  { name: "exclude_input_in_output" data_type: TYPE_BOOL dims: [1] optional: true }
]
output [ { name: "text_output" data_type: TYPE_STRING dims: [-1] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""

MODEL = """
import threading
import numpy
import triton_python_backend_utils as triton

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.answer, args=(request,), daemon=True).start()

    def answer(self, request):
        sender = request.get_response_sender()
        count = triton.get_input_tensor_by_name(request, "max_tokens").as_numpy().reshape(-1)[0]
        word = numpy.array([[b" word"]], dtype=object)
        for index in range(count):
            flags = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL if index == count - 1 else 0
            sender.send(triton.InferenceResponse([triton.Tensor("text_output", word)]), flags=flags)
"""


def write_repository(folder: Path) -> Path:
    """The repository of the model."""
    files = folder / "ensemble" / "1"
    files.mkdir(parents=True)
    (folder / "ensemble" / "config.pbtxt").write_text(CONFIG)
    (files / "model.py").write_text(MODEL)
    return folder


async def bare_loop(url: str, *, streams: int, requests: int, tokens: int) -> float:
    """Tokens a second of tritonclient's own asyncio client."""
    text = InferInput("text_input", [1, 1], "BYTES").set_data_from_numpy(np.array([[b"hi"]], dtype=object))
    count = InferInput("max_tokens", [1, 1], "INT32").set_data_from_numpy(
        np.array([[tokens]], dtype=np.int32)
    )
    received = 0

    async def user(client: tritonclient.InferenceServerClient) -> None:
        nonlocal received
        for _ in range(requests):

            async def asked() -> AsyncIterator[dict[str, Any]]:
                yield {"model_name": "ensemble", "inputs": [text, count]}

            async for _result, error in client.stream_infer(asked()):
                assert error is None, error
                received += 1

    async with tritonclient.InferenceServerClient(url) as client:
        begun = time.perf_counter()
        await asyncio.gather(*(user(client) for _ in range(streams)))
        seconds = time.perf_counter() - begun
    assert received == streams * requests * tokens, received
    return received / seconds


async def our_loop(url: str, *, streams: int, requests: int, tokens: int) -> float:
    """Tokens a second of the load generator, which stamps and keeps every one."""
    with Client(url) as client:
        model = describe_model(client, "ensemble")
    target = TritonTarget(url, model, options=TritonOptions())
    prompts = (Prompt(id="p", text="hi", max_tokens=tokens),)
    target.prepare(prompts)
    await target.open()
    extent = Extent(num_requests=streams * requests)
    begun = time.perf_counter()
    found = await run_repetition(target, Closed(streams), prompts, extent=extent, interrupt=asyncio.Event())
    seconds = time.perf_counter() - begun
    await target.close()
    received = sum(len(exchange.arrivals) for exchange in found.exchanges)
    assert received == streams * requests * tokens, received
    assert all(exchange.failure is None for exchange in found.exchanges)
    return received / seconds


def _run(loop: Callable[..., Coroutine[None, None, float]], url: str, **load: int) -> float:
    return asyncio.run(loop(url, **load))


def compare(
    url: str, *, streams: int, total: int, tokens: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Tokens a second of both, one value per round; who begins changes with every round."""
    requests = max(1, total // (streams * tokens))
    runs: list[Callable[[], float]] = [
        partial(_run, loop, url, streams=streams, requests=requests, tokens=tokens)
        for loop in (bare_loop, our_loop)
    ]
    values: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            values[which].append(runs[which]())
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--tokens", type=int, default=200, help="responses a request")
    parser.add_argument("--total", type=int, default=20000, help="responses a round")
    parser.add_argument("--rounds", type=int, default=6)
    given = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {platform.system()} {platform.release()}, ", end="")
    print(", ".join(f"{name} {version(name)}" for name in ("tritonclient", "grpcio")))
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "server"
        options = ServeOptions(
            state_dir=state, ports=Ports.from_base(find_free_base(start=23000)), detach=True
        )
        server = serve(write_repository(Path(folder) / "models"), options=options, progress=lambda _: None)
        try:
            print(
                head("streams", "bare loop, tokens/s", "tpforge, tokens/s", "tpforge / bare, in a round", "n")
            )
            for streams in given.streams:
                bare, ours = compare(
                    server.grpc_url,
                    streams=streams,
                    total=given.total,
                    tokens=given.tokens,
                    rounds=given.rounds,
                )
                ratios = [mine / theirs for mine, theirs in zip(ours, bare, strict=True)]
                cells = [spread(bare, ".0f"), spread(ours, ".0f"), spread(ratios, ".2f")]
                print(line(str(streams), *cells, str(given.rounds)), flush=True)
        finally:
            stop(state)


if __name__ == "__main__":
    main()
