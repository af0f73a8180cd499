"""Why a deployment fails or is slow: its failure modes, from logs, metrics, topology and runs.

A finding has its evidence, verbatim, its cause and what to do. What was not looked at is said to be so;
that no sign was found is no proof of health. Patterns are in diagnosis.toml; it reads no file and no socket.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Literal

from tpforge.records import Record

Mode = Literal[
    "out_of_memory",
    "slow_communication",
    "uneven_gpus",
    "unsupported_quantization",
    "latency_spikes",
    "engine_mismatch",
    "processes",
    "gpu_fault",
    "failed_requests",
    "unrecognized",
]
Strength = Literal["proof", "hint", "fact"]

TITLES: dict[Mode, str] = {
    "out_of_memory": "out of memory despite sharding",
    "slow_communication": "slow or broken communication",
    "uneven_gpus": "uneven GPUs",
    "unsupported_quantization": "unsupported quantized format",
    "latency_spikes": "latency spikes under load",
    "engine_mismatch": "engine and machine do not fit",
    "processes": "processes that do not start, or end",
    "gpu_fault": "a GPU at fault",
    "failed_requests": "failed requests",
    "unrecognized": "errors that are not recognized",
}
Evidence = Literal["log", "metrics", "run", "topology"]
LOOKED_FOR: dict[Mode, tuple[Evidence, ...]] = {
    "out_of_memory": ("log", "metrics", "run"),
    "slow_communication": ("log", "topology", "run"),
    "uneven_gpus": ("metrics", "run"),
    "unsupported_quantization": ("log",),
    "latency_spikes": ("metrics", "run", "log"),
    "engine_mismatch": ("log",),
    "processes": ("log",),
    "gpu_fault": ("log",),
    "failed_requests": ("metrics", "run"),
    "unrecognized": ("log",),
}
"""Which evidence can show a mode."""

_OPTIONS: dict[Evidence, str] = {
    "log": "--log", "metrics": "--url", "run": "--run", "topology": "--topology"
}  # fmt: skip

_MOST_EVIDENCE = 5
_PREFILL_FACTOR, _MIN_ITERATIONS = 3.0, 5


class Sign(Record):
    """A pattern in a log and what it says."""

    mode: Mode
    strength: Strength
    pattern: str
    cause: str
    action: str
    source: str


class Harmless(Record):
    """A pattern of lines that are no sign, and why not."""

    pattern: str
    why: str
    source: str


class Finding(Record):
    """Something that was found; `count` says how often, `evidence` shows the first of them."""

    mode: Mode
    strength: Strength
    cause: str
    action: str
    evidence: tuple[str, ...]
    count: int
    source: str = ""


class Diagnosis(Record):
    """What was looked at and what was found; `modes` says of every failure mode how it stands."""

    schema_version: Literal[1] = 1
    looked_at: tuple[str, ...]
    findings: tuple[Finding, ...]
    facts: tuple[Finding, ...]
    modes: dict[Mode, str]


@cache
def _table() -> dict[str, list[dict[str, str]]]:
    text = resources.files("tpforge.measure.failures").joinpath("diagnosis.toml").read_text("utf-8")
    return tomllib.loads(text)


@cache
def log_signs() -> tuple[Sign, ...]:
    """The signs of diagnosis.toml."""
    return tuple(Sign.model_validate(row) for row in _table()["sign"])


@cache
def _harmless() -> re.Pattern[str]:
    """All lines that are no sign, by the table."""
    return re.compile("|".join(Harmless.model_validate(row).pattern for row in _table()["harmless"]))


def diagnose_log(lines: Iterable[str], *, name: str) -> list[Finding]:
    """What the lines of a log show: known messages, NCCL's transports, slow steps, and unknown errors.

    What a line quotes of a request is not looked at: a prompt may be about an error.
    """
    signs = [(sign, re.compile(sign.pattern)) for sign in log_signs()]
    seen: dict[int, list[str]] = {}
    counts: dict[int, int] = {}
    iterations: list[tuple[int, float, str]] = []
    full: list[str] = []
    unknown: list[str] = []
    for number, line in enumerate(lines, start=1):
        text = " ".join(_QUOTED.split(line, maxsplit=1)[0].split())
        if _harmless().search(text):
            continue
        num_known = sum(counts.values())
        for index, (_, pattern) in enumerate(signs):
            if pattern.search(text):
                counts[index] = counts.get(index, 0) + 1
                if counts[index] <= _MOST_EVIDENCE:
                    seen.setdefault(index, []).append(f"{name}:{number}: {text[:240]}")
        load = _LOAD.search(text)
        if load is not None and float(load[2]) >= _FULL_PERCENT and int(load[1]) > FEW_WAITING:
            full.append(f"{name}:{number}: {text[:240]}")
        elif sum(counts.values()) == num_known and _ERROR.search(text):
            unknown.append(f"{name}:{number}: {text[:240]}")
        if step := _ITERATION.search(text):
            iterations.append((int(step[2]), float(step[1]), f"{name}:{number}: {text[:240]}"))
    findings = [
        Finding(
            mode=sign.mode,
            strength=sign.strength,
            cause=sign.cause,
            action=sign.action,
            evidence=tuple(seen[index]),
            count=counts[index],
            source=sign.source,
        )
        for index, (sign, _) in enumerate(signs)
        if index in counts
    ]
    return [*findings, *_slow_prefills(iterations), *_full_cache(full), *_unrecognized(unknown)]


FEW_WAITING = 3
"""So many requests wait at any moment of a server that keeps up."""
_FULL_PERCENT = 95.0
_QUOTED = re.compile(
    r"""(?i)\b(?:prompts?|text_input|messages|content|input_text|query)["']?\s*[:=]\s*[\["'{].*"""
)
"""Where a line begins to quote a request."""
_LOAD = re.compile(r"(?:Waiting|Pending): (\d+) reqs, GPU KV cache usage: ([\d.]+)%")
"""Source: vllm-project/vllm, vllm/v1/metrics/loggers.py and vllm/engine/metrics.py"""
_ERROR = re.compile(
    r"\[(?:E|F|ERROR|FATAL|CRITICAL)\]|\b(?:ERROR|FATAL|CRITICAL)\b|^[EF]\d{4} |NCCL WARN|"
    r"\b\w*(?:Error|Exception): |\b[Aa]ssertion\b.*\bfailed|\bTLLM_CHECK\b|\bterminate called|"
    r"\b[Ss]egmentation fault|core dumped"
)


def _full_cache(lines: Sequence[str]) -> list[Finding]:
    if not lines:
        return []
    return [
        Finding(
            mode="latency_spikes",
            strength="proof",
            cause="the KV cache is full while requests wait for a place in it",
            action="more KV cache (fraction, quantized KV, more ranks), add replicas, or bound the load",
            evidence=tuple(lines[:_MOST_EVIDENCE]),
            count=len(lines),
            source="vllm-project/vllm, vllm/v1/metrics/loggers.py",
        )
    ]


def _unrecognized(lines: Sequence[str]) -> list[Finding]:
    if not lines:
        return []
    return [
        Finding(
            mode="unrecognized",
            strength="hint",
            cause="the log has errors that are none of the known messages",
            action="read them; the first one is most often the cause of the others",
            evidence=tuple(lines[:_MOST_EVIDENCE]),
            count=len(lines),
        )
    ]


_ITERATION = re.compile(r"iter = \d+.*host_step_time = ([\d.]+) ?ms.*'num_ctx_tokens': (\d+)")


def _slow_prefills(iterations: Sequence[tuple[int, float, str]]) -> list[Finding]:
    """Steps that compute prompts beside answers, when they take far longer than those that do not."""
    plain = sorted(step for tokens, step, _ in iterations if tokens == 0)
    if len(plain) < _MIN_ITERATIONS:
        return []
    usual = plain[len(plain) // 2]
    slow = [item for item in iterations if item[0] > 0 and item[1] > _PREFILL_FACTOR * usual]
    if not slow:
        return []
    return [
        Finding(
            mode="latency_spikes",
            strength="proof",
            cause=f"prompts of others hold up running answers: such a step takes up to "
            f"{max(step for _, step, _ in slow):.0f} ms, one without prompts {usual:.0f} ms",
            action="turn on chunked prefill, or lower max_num_tokens: a step then computes less of a prompt",
            evidence=tuple(line for _, _, line in slow[:_MOST_EVIDENCE]),
            count=len(slow),
            source="NVIDIA/TensorRT-LLM, tensorrt_llm/_torch/pyexecutor, print_iter_log",
        )
    ]


def diagnose_topology(matrix: Sequence[Sequence[str]], *, name: str) -> list[Finding]:
    """What the links between GPUs say, by the letters of `nvidia-smi topo -m`."""
    slow: list[str] = []
    for row in range(len(matrix)):
        for column in range(row + 1, len(matrix)):
            if matrix[row][column] in ("PHB", "NODE", "SYS"):
                slow.append(f"{name}: GPU{row} - GPU{column}: {matrix[row][column]}")
    if not slow:
        return []
    return [
        Finding(
            mode="slow_communication",
            strength="hint",
            cause="these GPUs reach each other through the CPU (PHB, NODE) or from socket to socket (SYS)",
            action="put tensor-parallel ranks on GPUs that NV or PIX joins, by CUDA_VISIBLE_DEVICES",
            evidence=tuple(slow[:_MOST_EVIDENCE]),
            count=len(slow),
            source="nvidia-smi topo -m, its legend",
        )
    ]


def summarize(
    findings: Iterable[Finding], *, looked_at: Sequence[str], kinds: Iterable[Evidence]
) -> Diagnosis:
    """The findings by strength, and how each failure mode stands."""
    order = ("proof", "hint")
    everything = list(findings)
    found = sorted(
        (item for item in everything if item.strength in order), key=lambda item: order.index(item.strength)
    )
    given = set(kinds)
    modes: dict[Mode, str] = {}
    for mode in TITLES:
        strengths = [item.strength for item in found if item.mode == mode]
        if strengths:
            modes[mode] = "found" if "proof" in strengths else "suspected"
        elif given & set(LOOKED_FOR[mode]):
            has_unknown = any(item.mode == "unrecognized" for item in found)
            is_open = has_unknown and "log" in LOOKED_FOR[mode]
            modes[mode] = "no sign in what is recognized" if is_open else "no sign"
        else:
            options = " or ".join(_OPTIONS[kind] for kind in LOOKED_FOR[mode])
            modes[mode] = f"not looked at: give {options}"
    return Diagnosis(
        looked_at=tuple(looked_at),
        findings=tuple(found),
        facts=tuple(item for item in everything if item.strength == "fact"),
        modes=modes,
    )
