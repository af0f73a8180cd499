"""What trtllm-build says of itself while it runs: sizes, memory, time, warnings.

Lines that a release words differently are passed over: a number that was not seen is None, never a guess.
"""

from __future__ import annotations

import re

from pydantic import Field

from tpforge.records import Record

_TIME = re.compile(r"Total time of building all engines: (\d+):(\d+):(\d+)")
_WARNING = re.compile(r"\[W\]\s*(.*)")
_MIB = {"MiB": 1 << 20, "MB": 10**6, "GiB": 1 << 30, "GB": 10**9, "bytes": 1}
_AMOUNTS = {
    "engine_bytes": re.compile(
        r"(?:Loaded engine size|Serialized engine size|Engine size): ([\d.]+) (MiB|MB|GiB)"
    ),
    "weight_bytes": re.compile(r"Total Weights Memory: ([\d.]+) (bytes|MiB)"),
    "activation_bytes": re.compile(
        r"(?:Total Activation Memory:|Allocated) ([\d.]+) (bytes|MiB)(?: for execution context memory)?"
    ),
    "peak_host_bytes": re.compile(r"[Bb]uild phase peak memory: ([\d.]+) (MiB|MB)"),
    "peak_gpu_bytes": re.compile(r"[Pp]eak (?:GPU )?memory usage.*?GPU:? ([\d.]+) (MiB|MB|GiB)"),
}
_MAX_WARNINGS = 20


class BuildLog(Record):
    """The numbers of a build, each the largest of all ranks; None when the log does not have it."""

    seconds: int | None = None
    engine_bytes: int | None = None
    weight_bytes: int | None = None
    activation_bytes: int | None = None
    peak_host_bytes: int | None = None
    peak_gpu_bytes: int | None = None
    warnings: tuple[str, ...] = Field(default=())


class LogReader:
    """Reads a log line by line, as it comes."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._warnings: list[str] = []
        self._seconds: int | None = None

    def feed(self, line: str) -> None:
        """Take one line."""
        if match := _TIME.search(line):
            hours, minutes, seconds = (int(part) for part in match.groups())
            self._seconds = hours * 3600 + minutes * 60 + seconds
        for name, pattern in _AMOUNTS.items():
            if match := pattern.search(line):
                amount = round(float(match[1]) * _MIB[match[2]])
                self._numbers[name] = max(amount, self._numbers.get(name, 0))
        if (match := _WARNING.search(line)) and match[1] not in self._warnings:
            self._warnings.append(match[1].strip())

    def summary(self) -> BuildLog:
        """What was read so far; of many warnings the first ones."""
        return BuildLog(
            seconds=self._seconds, warnings=tuple(self._warnings[:_MAX_WARNINGS]), **self._numbers
        )
