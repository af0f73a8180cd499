"""Which tokens would make a bad word appear in an answer, by its text: the word may lie across tokens.

It works in bytes, since a token can end inside a character. Bad words of the prompt are nobody's concern.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence


class Pieces:
    """The bytes of every token of a vocabulary, ordered so that beginnings are found quickly."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces = tuple(pieces)
        self._order = sorted(range(len(pieces)), key=pieces.__getitem__)
        self._sorted = [pieces[token] for token in self._order]

    def containing(self, word: bytes) -> list[int]:
        """The tokens that hold the whole word."""
        return [token for token, piece in enumerate(self.pieces) if word in piece]

    def beginning_with(self, start: bytes) -> list[int]:
        """The tokens whose bytes begin so."""
        first = bisect_left(self._sorted, start)
        last = first
        while last < len(self._sorted) and self._sorted[last].startswith(start):
            last += 1
        return self._order[first:last]


class BadText:
    """The tokens that a request must not choose next, given what it has said."""

    def __init__(self, words: Sequence[str], pieces: Pieces) -> None:
        self._pieces = pieces
        self._words = tuple(word.encode() for word in words if word)
        self._always = sorted({token for word in self._words for token in pieces.containing(word)})
        self._longest = max((len(word) for word in self._words), default=0)

    def __call__(self, output: Sequence[int]) -> list[int]:
        """The tokens that would complete a bad word after `output`."""
        tail = b""
        for token in reversed(output):
            if len(tail) >= self._longest - 1:
                break
            tail = self._piece(token) + tail
        banned = list(self._always)
        for word in self._words:
            for length in range(1, len(word)):
                if tail.endswith(word[:length]):
                    banned += self._pieces.beginning_with(word[length:])
        return banned

    def _piece(self, token: int) -> bytes:
        return self._pieces.pieces[token] if token < len(self._pieces.pieces) else b""
