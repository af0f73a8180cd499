"""How GPUs are joined, in what `nvidia-smi topo -m` prints: by NVLink (NV), PCIe (PIX, PXB, PHB), or the CPU.

It runs nothing and judges no link.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SELF = "X"


def parse_topology(text: str) -> list[list[str]]:
    """The matrix of GPUs in the output of `nvidia-smi topo -m`; empty when there is none."""
    lines = [line.split() for line in re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()]
    # The header names GPUs too, but only a row has the place where a GPU meets itself.
    rows = [words for words in lines if words and re.fullmatch(r"GPU\d+", words[0]) and _SELF in words]
    return [words[1 : 1 + len(rows)] for words in rows]


def links_of(matrix: Sequence[Sequence[str]]) -> tuple[tuple[int, int, str], ...]:
    """The link of each pair of GPUs."""
    return tuple(
        (row, column, matrix[row][column])
        for row in range(len(matrix))
        for column in range(row + 1, len(matrix[row]))
    )
