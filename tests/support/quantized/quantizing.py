"""Quantizes tiny checkpoints for tests, while converting.

What the rank files must hold is not here.
"""

from pathlib import Path

from builders.conversion.convert import Conversion, convert
from builders.conversion.planned import plan_conversion
from builders.sources import open_source
from tpforge.quantization import Quantization, find_format
from tpforge.shards.mapping import Mapping


def make(
    out: Path, location: Path, name: str, *, tp_size: int, moe_ep_size: int = 1, form: str = "packed"
) -> Conversion:
    out.mkdir(parents=True)
    quantization = Quantization(format=name, form=form, group_size=find_format(name).group_size)  # type: ignore[arg-type]
    with open_source(str(location)) as source:
        return convert(
            source,
            plan_conversion(
                source,
                mapping=Mapping(tp_size=tp_size, moe_ep_size=moe_ep_size),
                quantization=quantization,
            ),
            out=out,
        )
