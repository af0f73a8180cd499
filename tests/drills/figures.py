"""What a drill found, as one line; it runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Figure:
    """One drill: what was done how often, what must be zero and was counted, and the times."""

    name: str
    what: str
    num_tries: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def count(self, kind: str, number: int = 1) -> None:
        """Count what must not happen."""
        self.bad[kind] = self.bad.get(kind, 0) + number

    def took(self, kind: str, seconds: float) -> None:
        """Keep a time."""
        self.seconds.setdefault(kind, []).append(seconds)

    @property
    def is_good(self) -> bool:
        """Whether everything that must be zero is."""
        return not any(self.bad.values())

    def line(self) -> str:
        """The line that is printed."""
        return " | ".join(part for part in self._cells() if part)

    def row(self) -> str:
        """The row of a table that is published."""
        *cells, times = self._cells()
        return f"| {' | '.join(cells)} | {'; '.join(filter(None, (times, *self.notes)))} |"

    def _cells(self) -> tuple[str, str, str, str]:
        """Name, tries, what was counted, times."""
        counts = ", ".join(f"{kind} {number}" for kind, number in self.bad.items())
        times = "; ".join(f"{kind} {_spread(values)}" for kind, values in self.seconds.items())
        return self.name, f"{self.num_tries} {self.what}", counts, times


def _spread(values: Sequence[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[len(ordered) // 2]:.1f} s, at most {ordered[-1]:.1f} s (n={len(ordered)})"
