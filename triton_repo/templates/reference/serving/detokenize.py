"""Where a stream of tokens may be cut, so that no character is broken and no space lost.

A token can end inside a UTF-8 character; its text then ends in U+FFFD, and it is held back until the
character is complete. Every chunk is decoded by itself, so the text of the chunks is the text of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

REPLACEMENT = "\ufffd"
MAX_HELD = 8
"""A UTF-8 character has at most 4 bytes and so at most 4 tokens: more tokens than this are not one
incomplete character, but bytes that are no text."""

Decode = Callable[[Sequence[int]], str]


class Aligner:
    """Cuts one stream of tokens into chunks of complete characters."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._held: list[int] = []

    def push(self, token_id: int) -> list[int]:
        """The tokens that are complete now; empty while a character is not."""
        self._held.append(token_id)
        if len(self._held) < MAX_HELD and self._decode(self._held).endswith(REPLACEMENT):
            return []
        return self.flush()

    def flush(self) -> list[int]:
        """The tokens held back; for the end of the stream."""
        released, self._held = self._held, []
        return released


def decode_text(token_ids: Sequence[int], decode: Decode) -> str:
    """The text of a whole sequence, equal to that of its chunks when it is streamed.

    Decoders differ on how many U+FFFD they write for bytes that are no text, so such a sequence is
    decoded chunk by chunk.
    """
    text = decode(token_ids)
    if REPLACEMENT not in text:
        return text
    aligner = Aligner(decode)
    chunks = [aligner.push(token_id) for token_id in token_ids]
    return "".join(decode(chunk) for chunk in [*chunks, aligner.flush()] if chunk)


class TextStream:
    """The text of one stream of tokens, as it becomes complete."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._aligner = Aligner(decode)

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that these tokens complete."""
        chunks = [self._aligner.push(token_id) for token_id in token_ids]
        return "".join(self._decode(chunk) for chunk in chunks if chunk)

    def flush(self) -> str:
        """The rest, complete or not."""
        return self._decode(self._aligner.flush())
