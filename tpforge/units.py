"""Bytes, durations and counts as people read them. It measures nothing."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


def format_bytes(num_bytes: int) -> str:
    """`num_bytes` in the largest binary unit that keeps it at or above one: ``1.5 GiB``."""
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} B"


def format_seconds(seconds: float) -> str:
    """``850 ms`` below one second, ``12.3 s`` below two minutes, ``2 min 5 s`` above."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def counted(number: int, what: str) -> str:
    """``1 rank``, ``2 ranks``: a count with the plural that it needs."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
