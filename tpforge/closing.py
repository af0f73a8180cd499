"""What is closed at the end of a `with` block: the two methods that every such class would write alike.

It closes nothing itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """A class with `close`, usable as a context manager that calls it, whatever ended the block."""

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
