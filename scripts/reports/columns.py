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
"""Characters that a column keeps when others are wrapped for it; a narrower one is left as it is."""


def table(rows: Sequence[Sequence[str]], *, header: Sequence[str], width: int | None = None) -> str:
    """Columns padded to their widest cell; the last one is not padded.

    `width` is the most characters of a line, by default the terminal's, and without bound where stdout is
    none: the widest columns are then wrapped within their cells.
    """
    lines = [header, *rows]
    needed = [max(len(line[column]) for line in lines) for column in range(len(header))]
    widths = _fitted(needed, width if width is not None else terminal_width())
    return "\n".join(text for line in lines for text in _wrapped(line, widths))


def terminal_width() -> int | None:
    """The columns of the terminal that stdout is; None when it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _fitted(needed: list[int], width: int | None) -> list[int]:
    """The widths of the columns: the widest give up what does not fit, down to what can still be read."""
    widths = list(needed)
    if width is None:
        return widths
    excess = sum(widths) + _GAP * (len(widths) - 1) - width
    while excess > 0:
        widest = max(range(len(widths)), key=lambda column: widths[column])
        if widths[widest] <= _NARROWEST:
            break
        widths[widest] -= 1
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
