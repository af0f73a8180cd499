"""Decoding speed of the reference runtime through Triton, beside transformers' own generate().

One run measures everything on one machine: for each round, transformers in bfloat16 and float32 and every
engine take turns, so that a machine whose speed drifts does not favour one. Both run on CUDA where there is
any. It says nothing of TensorRT-LLM. Run it as ``python -m benchmarks.decode demo --tp 1 4``;
``--in-process`` asks the runtime's scheduler itself, where no Triton can run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

# The waiting of torch's threads is left as it is here: transformers runs as its users run it.
import torch
from tokenizers import Tokenizer

from benchmarks.convert import print_machine
from benchmarks.tables import head, line, spread
from builders.sources.models import demo_model
from engines import reference
from engines.reference import Event, Sampling, Scheduler
from engines.store import read_manifest
from scripts.flows.build import build_engine
from tpforge.recipe import EngineRecipe
from tpforge.repository_options import ReferenceOptions
from triton_repo.client.client import Client
from triton_repo.render.repository import render
from triton_repo.serve.local import ServeOptions, Server, serve, stop
from triton_repo.serve.ports import Ports, find_free_base

PROMPT = "Once upon a time, a lighthouse keeper on a small island found a letter in a bottle. It said:"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NO_END = 7  # An id that greedy decoding of this prompt does not give, so that every run has equal length.


@dataclass(frozen=True)
class Way:
    """What is asked, and by how many streams at once."""

    name: str
    streams: int


TRANSFORMERS = Way("transformers generate(), bfloat16", 1)


def transformers_speed(model_path: Path, num_tokens: int, dtype: str) -> Callable[[], float]:
    """A function that generates greedily once and gives tokens a second, prefill included."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    where = {"pretrained_model_name_or_path": model_path.parent, "gguf_file": model_path.name}
    if model_path.is_dir():
        where = {"pretrained_model_name_or_path": model_path}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    model = model.to(DEVICE, getattr(torch, dtype)).eval()
    inputs = tokenizer(PROMPT, return_tensors="pt").to(DEVICE)

    def run() -> float:
        started = time.perf_counter()
        output = model.generate(
            **inputs, max_new_tokens=num_tokens, min_new_tokens=num_tokens, do_sample=False
        )
        elapsed = time.perf_counter() - started
        assert output.shape[1] == inputs["input_ids"].shape[1] + num_tokens
        return num_tokens / elapsed

    return run


def served_speed(url: str, num_tokens: int, concurrency: int, model: str) -> Callable[[], float]:
    """A function that streams `concurrency` answers at once and gives tokens a second of all of them."""
    clients = [Client(url, deadline_s=300) for _ in range(concurrency)]

    def ask(client: Client) -> int:
        prompt = PROMPT
        answer = client.generate(prompt, max_tokens=num_tokens, model=model, stream=True, end_id=NO_END)
        return len(answer.chunks)

    def run() -> float:
        started = time.perf_counter()
        with ThreadPoolExecutor(concurrency) as pool:
            num_chunks = sum(pool.map(ask, clients))
        elapsed = time.perf_counter() - started
        # A chunk may hold several tokens where a character spans them; the count of tokens is asked for.
        assert num_chunks > 0.9 * num_tokens * concurrency, f"only {num_chunks} chunks came"
        return num_tokens * concurrency / elapsed

    return run


def scheduled_speed(
    engine: Path, scheduler: Scheduler, num_tokens: int, concurrency: int
) -> Callable[[], float]:
    """The same without a server: requests in flight in this process's scheduler."""
    prompt = Tokenizer.from_file(str(engine / "tokenizer" / "tokenizer.json")).encode(PROMPT).ids
    asked = Sampling(max_tokens=num_tokens, end_id=NO_END)

    def run() -> float:
        ended: SimpleQueue[Event] = SimpleQueue()
        started = time.perf_counter()
        for _ in range(concurrency):
            scheduler.submit(prompt, asked, lambda event: ended.put(event) if event.finished else None)
        events = [ended.get(timeout=300) for _ in range(concurrency)]
        elapsed = time.perf_counter() - started
        assert all(event.finish_reason == "length" for event in events), events
        return num_tokens * concurrency / elapsed

    return run


def start(engine: Path, stack: ExitStack, scratch: Path, executor: str) -> Server:
    """Serve an engine until the stack ends."""
    repository = render(
        engine,
        read_manifest(engine),
        out=scratch / f"{engine.parent.name}-repository",
        runtime_source=Path(reference.__file__).parent,
        options=ReferenceOptions.model_validate({"executor": executor}),
    )
    state = scratch / f"{engine.parent.name}-server"
    options = ServeOptions(state_dir=state, ports=Ports.from_base(find_free_base()), detach=True)
    server = serve(repository.path, options=options, progress=_say)
    stack.callback(stop, state)
    return server


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="demo, a .gguf file or a Hugging Face directory")
    parser.add_argument("--tp", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=8)
    parser.add_argument("--executor", default="auto")
    parser.add_argument("--in-process", action="store_true", help="without Triton")
    parser.add_argument("--triton-model", default="ensemble", choices=("ensemble", "tensorrt_llm_bls"))
    options = parser.parse_args()
    model = demo_model() if options.model == "demo" else Path(options.model)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        scratch = Path(folder)
        runs: dict[Way, Callable[[], float]] = {}
        for dtype in ("bfloat16", "float32"):
            runs[Way(f"transformers generate(), {dtype}", 1)] = transformers_speed(
                model, options.tokens, dtype
            )
        for tp in options.tp:
            recipe = EngineRecipe(model=str(model), tp=tp)
            built = build_engine(recipe, out=scratch / f"tp{tp}" / "engine", progress=_say)
            engine = built.places.engine
            if options.in_process:
                scheduler = Scheduler(engine, executor=options.executor, max_batch_size=options.concurrency)
                stack.callback(scheduler.close)
            else:
                server = start(engine, stack, scratch, options.executor)
            for streams in (1, options.concurrency):
                if options.in_process:
                    way = Way(f"tp={tp}, in process", streams)
                    runs[way] = scheduled_speed(engine, scheduler, options.tokens, streams)
                else:
                    way = Way(f"tp={tp}, through Triton", streams)
                    runs[way] = served_speed(server.grpc_url, options.tokens, streams, options.triton_model)
        figures: dict[Way, list[float]] = {way: [] for way in runs}
        for number in range(options.rounds + 1):
            for way, run in runs.items():
                value = run()
                if number:  # The first round warms up.
                    figures[way].append(value)
        report(figures)


def report(figures: dict[Way, list[float]]) -> None:
    """Print medians with their range; ratios are those of the two in one round."""
    print(head("what", "streams", "tokens/s", "of transformers' bfloat16", "of its own 1 stream", "n"))
    for way, values in figures.items():
        alone = figures[Way(way.name, 1)]
        print(
            line(
                way.name,
                str(way.streams),
                spread(values, ".1f"),
                _ratio(values, figures[TRANSFORMERS]) if way.streams == 1 else "",
                _ratio(values, alone) if way.streams > 1 else "",
                str(len(values)),
            )
        )
    if DEVICE == "cuda":
        print(f"GPU: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    print_machine("decode")


def _ratio(values: list[float], others: list[float]) -> str:
    return spread([value / other for value, other in zip(values, others, strict=True)], ".2f")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
