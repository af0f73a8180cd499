"""Quantizes tiny checkpoints for tests, while converting.

What the rank files must hold is not here.
"""

from pathlib import Path

from builders.conversion.convert import Conversion
from tests.support.conversions import convert_to
from tpforge.quantization import Quantization, find_format


def make(
    out: Path, location: Path, name: str, *, tp_size: int, moe_ep_size: int = 1, form: str = "packed"
) -> Conversion:
    """Convert into the new folder `out`, quantized by the format `name`."""
    quantization = Quantization(format=name, form=form, group_size=find_format(name).group_size)  # type: ignore[arg-type]
    return convert_to(out, location, tp_size=tp_size, moe_ep_size=moe_ep_size, quantization=quantization)
