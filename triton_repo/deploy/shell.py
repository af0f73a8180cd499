"""A command as lines of a shell, for people to read and to copy."""

from __future__ import annotations

import shlex
from collections.abc import Iterable


def join_lines(words: Iterable[str], *, heads: Iterable[str] = ()) -> str:
    """Words for a shell: one line per option, a process of mpirun (after ``:``), and each of `heads`."""
    lines: list[list[str]] = [[]]
    firsts = set(heads)
    for word in words:
        starts = word.startswith("-") or word == ":" or word in firsts
        if starts and lines[-1] and lines[-1] != [":"]:
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return " \\\n  ".join(" ".join(line) for line in lines)
