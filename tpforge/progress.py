"""How long work tells what it does, to whoever asked for it.

It shows nothing: `scripts.cli` does.
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str], None]
"""Is given a line that says what is done now."""

BytesProgress = Callable[[int, int], None]
"""Is given how many bytes are done, and of how many."""
