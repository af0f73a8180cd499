"""e4m3: FP8 numbers of 4 bits of exponent, without infinities; the largest is 448.

Rounded to nearest, halves to the even code, saturated at 448.
Source: OCP 8-bit Floating Point Specification 1.0, section 5.
"""

from __future__ import annotations

import torch

LARGEST = 448.0


def scaled_to_e4m3(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """values / scale as float8_e4m3fn, of the shape that the two broadcast to, saturated at LARGEST.

    Where the scale is 0 the values are too, and stay so.
    """
    ratio = values / scale.where(scale != 0, 1.0)
    return ratio.clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
