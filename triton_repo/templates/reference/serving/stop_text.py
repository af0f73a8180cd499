"""Where an answer ends by its text: after the first stop word, wherever in its tokens the word lies.

The word stays in the answer, as upstream's tensorrt_llm_bls has it; what follows it does not. Nothing is
cut here.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopText:
    """Looks for words in a text that comes in pieces; a word may lie across them.

    Of several words the one that is complete first counts, so that a stream and a whole answer end alike.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = tuple(word for word in words if word)
        self._longest = max((len(word) for word in self._words), default=0)
        self._tail = ""

    def __bool__(self) -> bool:
        """Whether there is a word to look for."""
        return bool(self._words)

    def push(self, piece: str) -> int | None:
        """How much of the next piece belongs to the answer when a word ends in it; None when none does."""
        text = self._tail + piece
        ends = [place + len(word) for word in self._words if (place := text.find(word)) >= 0]
        if ends:
            return min(ends) - len(self._tail)
        self._tail = text[max(0, len(text) - self._longest + 1) :] if self._longest > 1 else ""
        return None


def answer_end(text: str, words: Sequence[str], *, start: int = 0) -> int:
    """Where an answer ends that is whole: after the first word at `start` or behind it, or with the text."""
    end = StopText(words).push(text[start:])
    return len(text) if end is None else start + end
