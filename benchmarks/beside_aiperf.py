"""The load generator beside AIPerf: the same server, the same load, one after the other, several rounds.

The server is OpenAI-compatible and answers by a script with known delays, so that both can be held against
the truth as well. AIPerf is not a dependency: give the program of an environment of its own. Run it as
``python -m benchmarks.beside_aiperf --aiperf ENV/bin/aiperf --tokenizer DIR``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from tests.support.servers.scripted_openai import HttpScript, scripted_openai
from tpforge.measure.metrics import summarize
from tpforge.measure.prompts import Prompt
from triton_repo.load.counting import Counting
from triton_repo.load.openai_target import OpenAiOptions, OpenAiTarget
from triton_repo.load.reading import read_repetition
from triton_repo.load.runner import Extent, run_repetition
from triton_repo.load.schedule import Closed

OSL, PROMPT = 40, "Tell a story about a lighthouse keeper, a letter in a bottle, and a storm in the night."


def aiperf(program: Path, url: str, *, concurrency: int, requests: int, tokenizer: Path, out: Path) -> Path:
    """Run AIPerf; the file of its metrics."""
    words = [
        str(program), "profile", "--model", "m", "--url", url, "--endpoint-type", "completions",
        "--streaming",
        "--concurrency", str(concurrency), "--request-count", str(requests), "--osl", str(OSL), "--isl", "20",
        "--tokenizer", str(tokenizer), "--use-server-token-count", "--ui", "none", "--artifact-dir", str(out),
    ]  # fmt: skip
    # Its children find their Python by their own links, not by ours.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    found = out / "profile_export_aiperf.json"
    if done.returncode or not found.is_file():
        raise SystemExit(f"aiperf failed:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}")
    return found


def ours(url: str, *, concurrency: int, requests: int) -> dict[str, float]:
    """Median TTFT and ITL of the load generator, in ms."""
    target = OpenAiTarget(url, "m", options=OpenAiOptions())
    prompts = (Prompt(id="p", text=PROMPT, max_tokens=OSL),)
    extent = Extent(num_requests=requests)
    target.prepare(prompts)
    found = asyncio.run(
        run_repetition(target, Closed(concurrency), prompts, extent=extent, interrupt=asyncio.Event())
    )
    read = read_repetition(target, found, extent=extent, level=0, repeat=0, counting=Counting())
    assert read.record is not None and read.record.num_completed == requests
    metrics = summarize(read.samples, [read.record])
    names = ("time_to_first_token", "inter_token_latency", "request_latency")
    return {name: metrics[name].p50 or 0.0 for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--aiperf", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="for AIPerf's synthetic prompts")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--requests", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ttft-ms", type=float, default=100)
    parser.add_argument("--itl-ms", type=float, default=20)
    given = parser.parse_args()
    script = HttpScript(ttft_s=given.ttft_ms / 1e3, itl_s=given.itl_ms / 1e3)
    print(f"the server's script: TTFT {given.ttft_ms:g} ms, ITL {given.itl_ms:g} ms; medians over rounds, ms")
    print("concurrency  metric               AIPerf    tpforge   tpforge / AIPerf")
    with tempfile.TemporaryDirectory() as folder, scripted_openai(Path(folder), script) as server:
        for concurrency in given.concurrency:
            rows: dict[str, list[tuple[float, float]]] = {}
            load = {"concurrency": concurrency, "requests": given.requests}
            for number in range(given.rounds):
                out = Path(folder) / f"{concurrency}-{number}"
                path = aiperf(given.aiperf, server.url, tokenizer=given.tokenizer, out=out, **load)
                theirs = json.loads(path.read_text())
                for name, value in ours(server.url, **load).items():
                    rows.setdefault(name, []).append((theirs[name]["p50"], value))
            for name, pairs in rows.items():
                a, b = (statistics.median(values) for values in zip(*pairs, strict=True))
                print(f"{concurrency:11}  {name:20} {a:7.2f}  {b:9.2f}   {b / a:.3f}", flush=True)


if __name__ == "__main__":
    main()
