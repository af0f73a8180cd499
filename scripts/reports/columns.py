"""A table as text: as wide as it needs where it is piped, no wider than the terminal where it is read there.

It knows nothing of what the cells mean.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from itertools import zip_longest
from textwrap import wrap

_GAP = 2
_NARROWEST = 12
"""Characters that a cell keeps when it is wrapped for others; a narrower one is left as it is."""


def table(rows: Sequence[Sequence[str]], *, header: Sequence[str], width: int | None = None) -> str:
    """Columns padded to their widest cell; the last one is not padded.

    `width` is the most characters of a line, by default the terminal's, and without bound where stdout is
    none: headers and the widest columns are then wrapped within their cells. Columns that do not fit even so
    follow in a block of their own, beside the first column again.
    """
    lines = [header, *rows]
    bound = width if width is not None else terminal_width()
    needed = [max(len(line[column]) for line in lines) for column in range(len(header))]
    least = [_least(header[column], [row[column] for row in rows]) for column in range(len(header))]
    blocks = []
    for columns in _blocks(least, bound):
        widths = _fitted([needed[one] for one in columns], [least[one] for one in columns], bound)
        part = [[line[one] for one in columns] for line in lines]
        blocks.append("\n".join(text for line in part for text in _wrapped(line, widths)))
    return "\n\n".join(blocks)


def terminal_width() -> int | None:
    """The columns of the terminal that stdout is; None when it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _least(header: str, cells: Sequence[str]) -> int:
    """To how many characters a column may shrink: headers between words, cells when they are long."""
    words = [len(word) for word in header.split()]
    return max([min(max(words, default=0), _NARROWEST), *(min(len(cell), _NARROWEST) for cell in cells)])


def _blocks(least: Sequence[int], width: int | None) -> list[list[int]]:
    """Which columns stand beside each other; the first one stands in every block."""
    if width is None or len(least) < 2:
        return [list(range(len(least)))]
    blocks = [[0, 1]]
    for column in range(2, len(least)):
        taken = sum(least[one] + _GAP for one in blocks[-1])
        if taken + least[column] <= width:
            blocks[-1].append(column)
        else:
            blocks.append([0, column])
    return blocks


def _fitted(needed: Sequence[int], least: Sequence[int], width: int | None) -> list[int]:
    """The widths of the columns: the widest give up what does not fit, down to what can still be read."""
    widths = list(needed)
    if width is None:
        return widths
    excess = sum(widths) + _GAP * (len(widths) - 1) - width
    while excess > 0:
        able = [column for column in range(len(widths)) if widths[column] > least[column]]
        if not able:
            break
        widths[max(able, key=lambda column: widths[column])] -= 1
        excess -= 1
    return widths


def _wrapped(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The lines of text of one row; words are kept whole where they can be."""
    cells = [
        [cell] if len(cell) <= width else wrap(cell, width, break_on_hyphens=False) or [""]
        for cell, width in zip(line, widths, strict=True)
    ]
    return [
        (" " * _GAP).join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()
        for parts in zip_longest(*cells, fillvalue="")
    ]
