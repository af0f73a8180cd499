"""The nearest known names for one that is not known, as the end of a sentence. It decides nothing."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """``; did you mean a or b?``, the nearest first; empty where none is near."""
    spelled = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), list(spelled), n=most, cutoff=0.6)
    return f"; did you mean {' or '.join(spelled[one] for one in near)}?" if near else ""
