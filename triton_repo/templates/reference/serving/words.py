"""Stop and bad words as tensors: INT32 [2, n] an item, flat token ids above the ends of the words.

Source: upstream's preprocessing, _to_word_list_format. Ids are padded with 0 and ends with -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import numpy.typing as npt

from .fields import field_error

Words = tuple[tuple[int, ...], ...]

MAX_WORDS = 1024
MAX_WORD_BYTES = 4096
MAX_WORDS_BYTES = 65_536
MAX_WORDS_IDS = 65_536
"""Of one item: an answer ends by few and short words, and every one is looked for at each of its tokens."""


def check_words(words: Sequence[bytes], *, field: str) -> None:
    """Refuse words that are too many or too long to be looked for, before any of them is decoded.

    Raises:
        FieldError: there are more than MAX_WORDS, or one or all of them have too many bytes.
    """
    if len(words) > MAX_WORDS:
        raise field_error(field, f"has {len(words)} words, expected at most {MAX_WORDS}")
    longest, total = max(map(len, words), default=0), sum(map(len, words))
    if longest > MAX_WORD_BYTES:
        raise field_error(field, f"has a word of {longest} bytes, expected at most {MAX_WORD_BYTES}")
    if total > MAX_WORDS_BYTES:
        raise field_error(field, f"has words of {total} bytes together, expected at most {MAX_WORDS_BYTES}")


def pack_words(batch: Sequence[Words]) -> npt.NDArray[np.int32]:
    """The tensor [batch, 2, n] of the words of every item; n is 0 when no item has any."""
    width = max(sum(len(word) for word in words) for words in batch)
    packed = np.zeros((len(batch), 2, width), dtype=np.int32)
    packed[:, 1] = -1
    for row, words in zip(packed, batch, strict=True):
        flat = [token for word in words for token in word]
        row[0, : len(flat)] = flat
        row[1, : len(words)] = list(accumulate(len(word) for word in words))
    return packed


def unpack_words(packed: npt.NDArray[np.int32], *, field: str) -> Words:
    """The words of one item's tensor [2, n].

    Raises:
        FieldError: the ends do not rise within the ids, or there are too many of either.
    """
    if packed.shape[1] > MAX_WORDS_IDS:
        raise field_error(field, f"has {packed.shape[1]} ids, expected at most {MAX_WORDS_IDS}")
    if (count := int((packed[1] >= 0).sum())) > MAX_WORDS:
        raise field_error(field, f"has {count} words, expected at most {MAX_WORDS}")
    flat, ends = packed[0].tolist(), [end for end in packed[1].tolist() if end >= 0]
    words, start = [], 0
    for end in ends:
        if not start < end <= len(flat):
            raise field_error(
                field,
                f"word ends {ends} do not rise within the {len(flat)} ids; expected ids above their ends",
            )
        words.append(tuple(flat[start:end]))
        start = end
    return tuple(words)
