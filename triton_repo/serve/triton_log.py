"""Reads Triton's log: which models are loaded, and why one is not, in the words of whoever knew.

It reads text; it does not decide whether the server is healthy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_PREFIX = re.compile(r"^[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ \d+ [\w.]+:\d+\] ")
_LOADING = re.compile(r"\"loading: ([^:\"]+):\d+\"")
_LOADED = re.compile(r"\"successfully loaded '([^']+)'")
_WHERE = re.compile(r"\s*\n+At:\n\s+(\S+)\((\d+)\): .*", re.DOTALL)
_NUM_LAST_LINES = 5

DIES_BY_CHANCE = "boost::interprocess::lock_exception"
"""Triton's Python backend aborts so now and then when models start side by side on a busy machine; the next
start need not. Reports: triton-inference-server/server 8882, tensorrtllm_backend 349 and 521.
"""


@dataclass(frozen=True)
class _Rule:
    """A line that says why, what to make of it, and whether Triton hangs after it instead of ending."""

    pattern: re.Pattern[str]
    tell: Callable[[re.Match[str]], str]
    hangs: bool = False


def _config_problem(match: re.Match[str]) -> str:
    place, problem, file = match.group(1), match.group(2), match.group(3)
    advice = "; a placeholder was left in: render the repository again" if "got: $" in problem else ""
    return f"{file}:{place}: {problem.rstrip('.')}{advice}"


def _shared_memory(match: re.Match[str]) -> str:
    return f"{match.group(1)}; /dev/shm is full, or too small (docker run --shm-size=1g)"


# In the order of who knows best: the first rule that matches anything gives the reasons.
_RULES = (
    _Rule(
        re.compile(
            r"Error parsing text-format inference\.ModelConfig: (\d+:\d+): (.*)\n"
            r"(?:.*\n)*?.*failed to read text proto from ([^\"]+)"
        ),
        _config_problem,
    ),
    _Rule(
        re.compile(r"Poll failed for model directory '([^']+)': (?!failed to read text proto)(.*)\"$", re.M),
        lambda match: f"model {match.group(1)}: {match.group(2)}",
    ),
    _Rule(
        re.compile(r"(Unable to (?:initialize|increase|create).{0,40}shared memory.*?)\"?$", re.M | re.I),
        _shared_memory,
    ),
    _Rule(
        re.compile(r"failed to load '([^']+)' version \d+: (?:[\w ]+?: )?(.*)\"$", re.M),
        lambda match: f"model {match.group(1)}: {_explain(match.group(2))}",
    ),
    _Rule(
        re.compile(r"failed to load model '([^']+)': (.*)\"$", re.M),
        lambda match: f"model {match.group(1)}: {match.group(2)}",
    ),
    _Rule(
        re.compile(r"model_repository_manager\.cc:\d+\] \"Invalid argument: (.*)\"$", re.M),
        lambda match: match.group(1),
    ),
    _Rule(
        re.compile(r"Failed to preinitialize Python stub: (.*)$", re.M),
        lambda match: match.group(1),
        hangs=True,
    ),
    _Rule(
        # Triton starts the process of a model by bash, and waits for it whatever bash says.
        re.compile(
            r"^(?:ba)?sh: (?:line \d+: )?"
            r"(.*: (?:No such file or directory|Permission denied|command not found|cannot execute.*))$",
            re.M,
        ),
        lambda match: f"the process of a model could not be started: {match.group(1)}",
        hangs=True,
    ),
    _Rule(
        re.compile(r"(Socket '[^']+' already in use)"),
        lambda match: f"{match.group(1)}; choose other ports with --port-base",
    ),
    _Rule(
        re.compile(r"^(.*: error while loading shared libraries: .*)$", re.M), lambda match: match.group(1)
    ),
    _Rule(
        re.compile(r"^error: creating server: (?!Internal - failed to load all models)(.*)$", re.M),
        lambda match: match.group(1),
    ),
)


def read_log(path: Path, *, start: int = 0) -> str:
    """The log from byte `start` on; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def failure_reason(log: str) -> str | None:
    """Why the server did not come up, all models that failed, sorted; None when the log says nothing."""
    for rule in _RULES:
        reasons = sorted({_unescape(rule.tell(match)) for match in rule.pattern.finditer(log)})
        if reasons:
            return "\n  ".join(reasons)
    return None


def hang_reason(log: str) -> str | None:
    """Why the server will never come up, though its process goes on; None when nothing says so."""
    for rule in _RULES:
        if rule.hangs and (match := rule.pattern.search(log)):
            return _unescape(rule.tell(match))
    return None


def loaded_models(log: str) -> tuple[str, ...]:
    """The models that are loaded, in the order in which they came up."""
    return _unique(_LOADED.findall(log))


def loading_models(log: str) -> tuple[str, ...]:
    """The models that were begun and are not loaded yet."""
    loaded = set(loaded_models(log))
    return tuple(name for name in _unique(_LOADING.findall(log)) if name not in loaded)


def last_lines(log: str) -> tuple[str, ...]:
    """The last lines that say something: no tables, no progress of shutting down."""
    lines = [_PREFIX.sub("", line).strip() for line in log.splitlines()]
    telling = [line for line in lines if line and line[0] not in "|+" and not line.startswith('"Timeout ')]
    return tuple(_unescape(line.strip('"')) for line in telling[-_NUM_LAST_LINES:])


def _explain(message: str) -> str:
    """A model's error as one line, with the place in its code."""
    if "is not healthy" in message:
        return f"{message.rstrip('.')}: its process died while it loaded; the log may say more"
    text = message.replace("\\n", "\n")
    return _WHERE.sub(r" (\1:\2)", text).strip()


def _unescape(text: str) -> str:
    return text.replace("\\n", "\n    ").replace('\\"', '"').rstrip()


def _unique(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))
