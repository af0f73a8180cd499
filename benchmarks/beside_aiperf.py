"""The load generator beside AIPerf: the same server, the same load, one after the other, several rounds.

The server is OpenAI-compatible and answers by a script with known delays, so that both can be held against
the truth as well. AIPerf is not a dependency: it is installed into out/aiperf on the first run, or give the
program of an environment of its own. Run it as ``python -m benchmarks.beside_aiperf [--aiperf PROGRAM]``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.tables import head, line
from builders.export import write_huggingface
from builders.sources.models import open_model
from tests.support.servers.scripted_openai import HttpScript, scripted_openai
from tpforge.measure.runs.metrics import summarize
from tpforge.measure.runs.prompts import Prompt
from triton_repo.load.counting import Counting
from triton_repo.load.openai_target import OpenAiOptions, OpenAiTarget
from triton_repo.load.reading import read_repetition
from triton_repo.load.runner import Extent, run_repetition
from triton_repo.load.schedule import Closed

AIPERF = "aiperf==0.13.0"
FOLDER = Path("out/aiperf")
OSL, PROMPT = 40, "Tell a story about a lighthouse keeper, a letter in a bottle, and a storm in the night."


@dataclass(frozen=True)
class Case:
    """A server's script, and a load for it: so many requests, or so many seconds."""

    name: str
    script: HttpScript
    users: int
    num_requests: int | None = None
    duration_s: float | None = None

    @property
    def request_s(self) -> float:
        """How long a request takes by the script."""
        return self.script.ttft_s + (OSL - 1) * self.script.itl_s

    @property
    def answered_share(self) -> float:
        """How much of the time gives whole answers: until the last whole one before the server dies."""
        if not self.script.die_at_s or self.duration_s is None:
            return 1.0
        return self.script.die_at_s // self.request_s * self.request_s / self.duration_s


CASES = (
    Case("84 requests", HttpScript(ttft_s=1.5, itl_s=0.05), users=8, num_requests=84),
    Case("20 s", HttpScript(ttft_s=1.0, itl_s=0.1), users=8, duration_s=20),
    Case(
        "20 s, server gone after 8 s", HttpScript(ttft_s=0.5, itl_s=0.05, die_at_s=8), users=8, duration_s=20
    ),
)

TRUTH: dict[str, Callable[[Case], float]] = {
    "time_to_first_token": lambda case: 1e3 * case.script.ttft_s,
    "time_to_second_token": lambda case: 1e3 * case.script.itl_s,
    "inter_token_latency": lambda case: 1e3 * case.script.itl_s,
    "inter_chunk_latency": lambda case: 1e3 * case.script.itl_s,
    "request_latency": lambda case: 1e3 * case.request_s,
    "output_token_throughput_per_user": lambda case: 1 / case.script.itl_s,
    "output_sequence_length": lambda case: OSL,
    "output_token_throughput": lambda case: case.users * OSL / case.request_s * case.answered_share,
    "request_throughput": lambda case: case.users / case.request_s * case.answered_share,
    "benchmark_duration": lambda case: (
        case.duration_s or (case.num_requests or 0) / case.users * case.request_s
    ),
}
"""What the script says of each metric that both tools report, by name; durations differ by definition."""

NAMES = (*TRUTH, "benchmark_duration")


def aiperf(program: Path, url: str, case: Case, *, tokenizer: Path, out: Path) -> dict[str, float]:
    """Run AIPerf; the means of its metrics."""
    extent = ["--request-count", str(case.num_requests)]
    if case.duration_s is not None:
        extent = ["--benchmark-duration", str(case.duration_s), "--benchmark-grace-period", "60"]
    words = [
        str(program), "profile", "--model", "m", "--url", url, "--endpoint-type", "completions",
        "--streaming", "--concurrency", str(case.users), *extent, "--osl", str(OSL), "--isl", "20",
        "--tokenizer", str(tokenizer), "--use-server-token-count", "--ui", "none", "--artifact-dir", str(out),
    ]  # fmt: skip
    # Its children find their Python by their own links, not by ours.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    found = out / "profile_export_aiperf.json"
    if not found.is_file():
        raise SystemExit(f"aiperf failed:\n{done.stdout[-3000:]}\n{done.stderr[-1000:]}")
    told = json.loads(found.read_text())
    return {name: told[name]["avg"] for name in NAMES if name in told}


def ours(url: str, case: Case) -> dict[str, float]:
    """The means of the load generator's metrics."""
    target = OpenAiTarget(url, "m", options=OpenAiOptions())
    prompts = (Prompt(id="p", text=PROMPT, max_tokens=OSL),)
    extent = Extent(num_requests=case.num_requests, duration_s=case.duration_s)
    target.prepare(prompts)
    found = asyncio.run(
        run_repetition(target, Closed(case.users), prompts, extent=extent, interrupt=asyncio.Event())
    )
    read = read_repetition(target, found, extent=extent, level=0, repeat=0, counting=Counting())
    assert read.record is not None
    metrics = summarize(read.samples, [read.record])
    return {name: metrics[name].avg for name in NAMES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--aiperf", type=Path, help="the program; by default it is installed")
    parser.add_argument(
        "--tokenizer", type=Path, help="for AIPerf's synthetic prompts; by default the demo's"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", type=int, default=len(CASES), help="the first so many loads")
    given = parser.parse_args()
    program = given.aiperf or installed()
    tokenizer = given.tokenizer or demo_tokenizer()
    print("means, medians over rounds; ms, tokens, tokens/s, requests/s, s\n")
    print(head("load, 8 users", "metric", "script", "AIPerf", "tpforge", "tpforge / AIPerf"))
    for case in CASES[: given.cases]:
        rows = [_round(case, program, tokenizer) for _ in range(given.rounds)]
        for name in NAMES:
            theirs, own = (statistics.median(pair[side][name] for pair in rows) for side in (0, 1))
            script = f"{TRUTH[name](case):.4g}" if name in TRUTH else "-"
            cells = [case.name, name, script, f"{theirs:.4g}", f"{own:.4g}", f"{own / theirs:.3f}"]
            print(line(*cells), flush=True)


def installed() -> Path:
    """The program, in an environment of its own."""
    program = FOLDER / "venv/bin/aiperf"
    if not program.exists():
        subprocess.run([sys.executable, "-m", "venv", str(FOLDER / "venv")], check=True)
        pip = [str(FOLDER / "venv/bin/python"), "-m", "pip", "install", "--quiet", AIPERF]
        subprocess.run(pip, check=True, stdout=sys.stderr)
    return program.absolute()


def demo_tokenizer() -> Path:
    """That of the demo model, as a Hugging Face directory has it."""
    folder = FOLDER / "tokenizer"
    if not folder.exists():
        folder.mkdir(parents=True)
        with open_model("demo") as source:
            write_huggingface(source, folder)
    return folder.absolute()


def _round(case: Case, program: Path, tokenizer: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Both tools, each on a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with scripted_openai(place, case.script) as server:
            theirs = aiperf(program, server.url, case, tokenizer=tokenizer, out=place / "aiperf")
        with scripted_openai(place, case.script) as server:
            return theirs, ours(server.url, case)


if __name__ == "__main__":
    main()
