"""A decision from measurements made here: SmolLM2-135M at TP 1, 2, 4 and int8 on the CPU, `make decide-demo`.

Each step is a tpforge command as a person would type it, printed before it runs. The options are measured in
turns, and each second turn goes backwards, so that a machine whose speed drifts favours none. What is
recommended follows from the numbers: the first option that gives more tokens a second at the highest load,
else the baseline.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tpforge.measure.comparison.compare import Comparison, compare_runs
from tpforge.measure.runs.found_runs import FoundRun, find_run
from tpforge.measure.runs.prompts import Prompt
from tpforge.outputs.atomic import write_atomic
from tpforge.outputs.places import OUT, places_of

FOLDER = OUT / "decide-demo"
LEVELS = (1, 2, 4)
PROMPTS_A_SET = 2
QUESTION = "Does tensor parallelism or int8 pay for SmolLM2-135M on this machine without a GPU?"


@dataclass(frozen=True)
class Option:
    """An engine to measure, by what builds it."""

    name: str
    build: tuple[str, ...]


OPTIONS = (
    Option("tp1", ("--tp", "1")),
    Option("tp2", ("--tp", "2")),
    Option("tp4", ("--tp", "4")),
    Option("tp1-int8", ("--tp", "1", "--quantize", "int8_wo")),
)
"""The baseline first; each other option changes one thing of it."""


def main() -> int:
    """Build, serve, measure and evaluate every option, and write the decision; its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=4, help="turns: repeats of every level (default 4)")
    parser.add_argument("--max-tokens", type=int, default=32, help="tokens of an answer (default 32)")
    given = parser.parse_args()
    FOLDER.mkdir(parents=True, exist_ok=True)
    prompts = FOLDER / "prompts.jsonl"
    texts = _prompts()
    write_atomic(prompts, "".join(one.model_dump_json(exclude_defaults=True) + "\n" for one in texts))
    for option in OPTIONS:
        _build(option)
    for turn, option in turns(given.repeats):
        print(f"# turn {turn + 1} of {given.repeats}: {option.name}", flush=True)
        _measure(option, prompts, len(texts), max_tokens=given.max_tokens)
    for option in OPTIONS:
        _evaluate(option)
    return _decide([_run(option) for option in OPTIONS], longest_answer=given.max_tokens)


def turns(num_turns: int) -> Iterator[tuple[int, Option]]:
    """Every option once a turn: forwards, backwards, forwards, ..."""
    for turn in range(num_turns):
        for option in OPTIONS if turn % 2 == 0 else reversed(OPTIONS):
            yield turn, option


def _prompts() -> list[Prompt]:
    """The first two prompts of every set that ships, so that each kind of case is asked."""
    from triton_repo.load.prompt_sets import SETS, load_prompts

    return [prompt for name in SETS for prompt in load_prompts(name)[:PROMPTS_A_SET]]


def _engine(option: Option) -> str:
    return f"decide-demo-{option.name}"


def _run(option: Option) -> Path:
    return FOLDER / option.name


def _build(option: Option) -> None:
    """Build an engine that is not there, and forget what was measured of an earlier one."""
    if not (places_of(_engine(option)).engine / "engine.json").is_file():
        _tpforge("build", "demo", "--name", _engine(option), *option.build)
    shutil.rmtree(_run(option), ignore_errors=True)


def _measure(option: Option, prompts: Path, num_prompts: int, *, max_tokens: int) -> None:
    """Measure one repeat of an option: the first one of its run, or one more of it."""
    from triton_repo.serve.ports import find_free_base

    folder = _run(option)
    into = ("--join", str(folder)) if folder.exists() else ("--label", option.name, "--out", str(folder))
    base = find_free_base()
    _tpforge("serve", _engine(option), "--detach", "--port-base", str(base))
    try:
        _tpforge(
            "bench", f"localhost:{base + 1}", "--concurrency", ",".join(map(str, LEVELS)),
            "--prompts", str(prompts), "--chat-template",
            "--max-tokens", str(max_tokens), "--num-requests", str(num_prompts),
            "--duration", "600", "--repeats", "1", "--warmup", "3", "--deadline", "300", *into,
        )  # fmt: skip
    finally:
        _tpforge("stop", _engine(option))


def _evaluate(option: Option) -> None:
    baseline = () if option == OPTIONS[0] else ("--baseline", str(_run(OPTIONS[0])))
    _tpforge("evaluate", _engine(option), "--run", str(_run(option)), *baseline)


def _decide(folders: list[Path], *, longest_answer: int) -> int:
    baseline, *others = (find_run(str(folder)) for folder in folders)
    chosen, because = _choose(baseline, others)
    fallback = baseline if chosen is not baseline else others[-1]
    load = LEVELS[-1]
    longest = max(
        level.metrics["input_sequence_length"].max or 0
        for level in baseline.run.levels
        if "input_sequence_length" in level.metrics
    )
    return _tpforge(
        "decide", *map(str, folders), "--recommend", chosen.run.label, "--fallback", fallback.run.label,
        "--because", because, "--question", QUESTION, "--force", "--out", str(FOLDER / "decision"),
        "--bottleneck", _bottleneck(baseline),
        "--trigger", f"its mean time to first token at {load} requests at once exceeds the fallback's",
        "--complexity", "one process serves each option; every rank is one more file to load and check",
        "--production-input", str(round(longest)), "--production-output", str(longest_answer),
        "--production-concurrency", str(load),
        "--considered", "more cores, or a GPU: this machine has neither",
    )  # fmt: skip


def _choose(baseline: FoundRun, others: list[FoundRun]) -> tuple[FoundRun, str]:
    """What has the better throughput at the highest load without a worse quality, and why."""
    best, because = baseline, ""
    for option in others:
        comparison = compare_runs(best.run, option.run)
        quality = compare_runs(baseline.run, option.run).rows
        worse = [row for row in quality if row.section == "quality" and row.verdict == "worse"]
        if _throughput(comparison) == "better" and not worse:
            best, because = (
                option,
                f"its throughput is better than that of {best.run.label} at the highest load",
            )
    if best is baseline:
        because = "no other option was shown to give more tokens/s at the highest load with answers as good"
    return best, because


def _throughput(comparison: Comparison) -> str:
    row = comparison.find("output_token_throughput", level=f"concurrency {LEVELS[-1]}")
    return row.verdict if row is not None else "undecided"


def _bottleneck(baseline: FoundRun) -> str:
    """What the baseline's own numbers name: its throughput and the cores that it keeps busy."""
    level = baseline.run.levels[-1]
    speed = level.metrics.get("output_token_throughput")
    busy = level.telemetry.host.get("cpu")
    said = f"{speed.avg:.0f} output tokens/s at {level.name}" if speed is not None else "throughput"
    return said + (f", with the machine's cores {busy.avg:.0f} % busy" if busy is not None else "")


def _tpforge(*arguments: str) -> int:
    """Run one command; a failed one ends the demonstration with its exit status."""
    print(f"$ tpforge {shlex.join(arguments)}", flush=True)
    status = subprocess.run([sys.executable, "-m", "tpforge", *arguments], check=False).returncode
    if status != 0:
        raise SystemExit(status)
    return status


if __name__ == "__main__":
    sys.exit(main())
