"""What an interrupted conversion has written so far, so that `--resume` can go on where the bytes still hold.

It writes no weights. A line stands for one tensor on all ranks of a stage: how far each rank file goes, and
the SHA-256 of its content up to there, which a resumed run computes again before it trusts it.
"""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

JOURNAL_NAME = ".journal"


@dataclass(frozen=True)
class Mark:
    """After tensor number `num_tensors` of the stage that starts with rank `stage`: size and hash a rank."""

    stage: int
    num_tensors: int
    sizes: tuple[int, ...]
    digests: tuple[str, ...]


def is_resumable(folder: Path) -> bool:
    """Whether an interrupted conversion left something in `folder` or in a folder of it."""
    return any(folder.rglob(JOURNAL_NAME)) if folder.is_dir() else False


class Journal:
    """The journal of a conversion folder; `fingerprint` names input, options and layout of the conversion.

    A journal of another conversion, or a broken one, counts as empty and is written anew.
    """

    def __init__(self, folder: Path, *, fingerprint: str) -> None:
        self._path = folder / JOURNAL_NAME
        self._marks = _read(self._path, fingerprint)
        if not self._marks:
            self._path.write_text(json.dumps({"fingerprint": fingerprint}) + "\n", encoding="utf-8")
        self._file = self._path.open("a", encoding="utf-8")

    def last(self, stage: int) -> Mark | None:
        """How far a stage has come."""
        return self._marks.get(stage)

    def add(self, stage: int, num_tensors: int, *, sizes: Sequence[int], digests: Sequence[str]) -> None:
        """Note that a tensor is written on all ranks of a stage."""
        line = {"stage": stage, "num_tensors": num_tensors, "sizes": [*sizes], "digests": [*digests]}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Keep it, for a run to come."""
        self._file.close()

    def finish(self) -> None:
        """Remove it: the conversion is complete."""
        self._file.close()
        self._path.unlink()


class Marks:
    """Notes a tensor in the journal when the last rank of its stage has it; ranks report from any thread."""

    def __init__(self, journal: Journal, *, stage: int, num_ranks: int) -> None:
        self._journal, self._stage, self._num_ranks = journal, stage, num_ranks
        self._lock = threading.Lock()
        self._reports: defaultdict[int, dict[int, tuple[int, str]]] = defaultdict(dict)

    def add(self, num_tensors: int, rank: int, size: int, digest: str) -> None:
        """A rank has all bytes up to tensor `num_tensors`; each rank reports in the order of its tensors."""
        with self._lock:
            self._reports[num_tensors][rank] = size, digest
            if len(self._reports[num_tensors]) < self._num_ranks:
                return
            reports = self._reports.pop(num_tensors)
            sizes, digests = zip(*(reports[rank] for rank in range(self._num_ranks)), strict=True)
            self._journal.add(self._stage, num_tensors, sizes=sizes, digests=digests)


def _read(path: Path, fingerprint: str) -> dict[int, Mark]:
    """The last mark of each stage; a line cut short by a crash ends the reading."""
    marks: dict[int, Mark] = {}
    try:
        first, *lines = path.read_text(encoding="utf-8").splitlines()
        if json.loads(first) != {"fingerprint": fingerprint}:
            return {}
        for line in lines:
            value = json.loads(line)
            marks[value["stage"]] = Mark(
                value["stage"], value["num_tensors"], tuple(value["sizes"]), tuple(value["digests"])
            )
    except (OSError, ValueError, KeyError, TypeError):
        return marks
    return marks
