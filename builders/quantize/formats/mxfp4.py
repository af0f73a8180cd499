"""MXFP4 weights: e2m1 numbers in groups of 32 along a row, each group with a power of two as its scale.

The scale's exponent is floor(log2(absmax)) - 2, stored with a bias of 127 (e8m0).
Source: OCP Microscaling Formats (MX) Specification 1.0, sections 5.2, 5.4.1 and 6.3.
"""

from __future__ import annotations

import torch

from builders.quantize.formats.base import Rows, Tensors, WeightFormat
from builders.quantize.formats.e2m1 import pack_e2m1
from tpforge.dtypes import DType

GROUP = 32
_BIAS = 127


def pack_mxfp4(rows: Rows, shape: tuple[int, int], dtype: DType) -> Tensors:
    """The codes [out, in / 2], even columns in the low half of a byte, and exponents [out, in / 32]."""
    num_rows, num_columns = shape
    weight = torch.empty(num_rows, num_columns // 2, dtype=torch.uint8)
    exponents = torch.empty(num_rows, num_columns // GROUP, dtype=torch.uint8)
    first = 0
    for block in rows:
        stop = first + block.shape[0]
        values = block.float().view(block.shape[0], -1, GROUP)
        _, exponent = torch.frexp(values.abs().amax(-1))
        # frexp gives mantissas in [0.5, 1): its exponent is floor(log2) + 1.
        biased = (exponent - 3 + _BIAS).clamp_(0, 254)
        # A power of two: the product is exact.
        powers = torch.ldexp(torch.ones(biased.shape), _BIAS - biased)
        values = (values * powers[..., None]).flatten(1)
        weight[first:stop] = pack_e2m1(values, torch.signbit(values))
        exponents[first:stop] = biased.to(torch.uint8)
        first = stop
    return weight, exponents


MXFP4 = WeightFormat("mxfp4", pack=pack_mxfp4)
