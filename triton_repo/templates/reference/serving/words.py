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
        FieldError: the ends do not rise within the ids.
    """
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
