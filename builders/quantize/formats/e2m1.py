"""e2m1: the numbers 0, 0.5, 1, 1.5, 2, 3, 4, 6 with a sign, in 4 bits, two in a byte.

Rounded to nearest, halves to the even code, saturated at 6.
Source: OCP Microscaling Formats (MX) Specification 1.0, sections 5.3.3 and 6.3.
"""

from __future__ import annotations

import torch

# Between neighbours: what is larger has at least the next code; of those in the second, what is as large too.
_ABOVE = (0.25, 1.25, 2.5, 5.0)
_FROM = (0.75, 1.75, 3.5)


def pack_e2m1(values: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """The codes [rows, columns / 2] of float32 `values` [rows, columns], even columns in the low half.

    `negative` tells which have a sign, so that a format says what the sign of a zero is. `values` are
    overwritten.
    """
    size = values.abs_()
    codes = negative.view(torch.uint8) << 3
    # Counting the middles below is several times as fast as a search, or as a distance to eight numbers.
    for middle in _ABOVE:
        codes += (size > middle).view(torch.uint8)
    for middle in _FROM:
        codes += (size >= middle).view(torch.uint8)
    # The lower byte of a word is the even column.
    words = codes.view(torch.int16)
    return (words | (words >> 4)).to(torch.uint8)
