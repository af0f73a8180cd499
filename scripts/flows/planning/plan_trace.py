"""The load of a plan from a trace of one's own traffic: its requests, their mean, rate and the longest one.

It simulates nothing: `tpforge.plan` ranks options by the mean request, and lets the best serve the trace.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scripts.flows.plan import LoadWishes
from tpforge.errors import InputRefused, UsageError
from tpforge.measure.statistics import percentiles
from tpforge.outputs.atomic import os_errors
from tpforge.plan.speed.simulation import Request
from tpforge.progress import Progress
from tpforge.units import counted
from triton_repo.load.schedule import Trace, parse_trace


def with_trace(wishes: LoadWishes, file: Path, *, note: Progress) -> LoadWishes:
    """The wishes with the mean lengths of the trace, its rate, and room for its longest request.

    A load or a longest request that is stated stays, and requests come at a stated rate as many times faster;
    `note` is told what the trace holds.

    Raises:
        InputRefused: the file is missing, no trace, or a request has no lengths.
        UsageError: the longest request that is stated is shorter than one of the trace.
    """
    if not file.is_file():
        raise InputRefused(f"{file}: no such file; --trace reads JSONL as `tpforge bench --trace` does")
    with os_errors(file):
        text = file.read_text("utf-8")
    trace = parse_trace(text, file=str(file))
    prompts, answers = _lengths(trace)
    longest = max(prompt + answer for prompt, answer in zip(prompts, answers, strict=True))
    if wishes.max_len is not None and wishes.max_len < longest:
        raise UsageError(
            f"--max-len {wishes.max_len}: the longest request of {file} has {longest} tokens; give as many, "
            "or leave it out"
        )
    states_load = wishes.concurrency is not None or wishes.rate is not None or wishes.saturated
    own_rate = _rate(trace)
    rate = None if states_load else own_rate
    note(
        f"trace: {counted(len(prompts), 'request')}{'' if rate is None else f', {rate:.2f} a second'}; "
        f"{_spread('prompts', prompts)}; {_spread('answers', answers)}; the longest request has {longest}. "
        "Options are ranked by their mean; p50 and p95 are simulated for the chosen one"
    )
    # Requests that all came at once cannot be spread over a rate: then they come at random.
    slower = 1.0 if wishes.rate is None else (own_rate or 0.0) / wishes.rate
    return replace(
        wishes,
        isl=round(sum(prompts) / len(prompts)),
        osl=round(sum(answers) / len(answers)),
        rate=wishes.rate if rate is None else rate,
        max_len=wishes.max_len or longest,
        requests=tuple(
            Request(row.at_s * slower, prompt, answer)
            for row, prompt, answer in zip(trace.rows, prompts, answers, strict=True)
            if slower
        ),
    )


def _lengths(trace: Trace) -> tuple[list[int], list[int]]:
    prompts = [row.input_tokens for row in trace.rows if row.input_tokens is not None]
    answers = [row.output_tokens for row in trace.rows if row.output_tokens is not None]
    if len(prompts) != len(trace.rows) or len(answers) != len(trace.rows):
        raise InputRefused(
            f"{trace.file}: {len(trace.rows)} requests, of which {len(prompts)} have input_length and "
            f"{len(answers)} output_length; a plan needs both of each"
        )
    return prompts, answers


def _rate(trace: Trace) -> float | None:
    """Requests a second, from the first to the last; None when they all come at once."""
    seconds = trace.rows[-1].at_s
    return (len(trace.rows) - 1) / seconds if seconds > 0 else None


def _spread(name: str, lengths: list[int]) -> str:
    mean, (median, high) = sum(lengths) / len(lengths), percentiles(lengths, (50, 95))
    return f"{name} of {mean:.0f} tokens in the mean ({median:.0f} p50, {high:.0f} p95)"
