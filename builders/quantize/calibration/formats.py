"""Which formats calibration makes. It opens no model, so that a wrong format is refused at once."""

from __future__ import annotations

from builders.quantize.calibration import modelopt
from tpforge.errors import UsageError
from tpforge.quantization import Format


def refuse_format(row: Format, *, group_size: int | None) -> None:
    """Refuse a format that calibration does not make, or not here.

    Raises:
        UsageError: it is such a format, or has no groups to size.
    """
    if row.made_by != "modelopt":
        raise UsageError(
            f"--format {row.name}: {row.title} needs no calibration; use `tpforge build MODEL --quantize "
            f"{row.name}`"
            if row.made_by == "convert"
            else f"--format {row.name}: {row.title} is only read from checkpoints"
        )
    if row.name not in modelopt.CONFIGS:
        raise UsageError(
            f"--format {row.name}: {modelopt.NOT_RUN[row.name]}; use one of {', '.join(modelopt.CONFIGS)}"
        )
    if group_size is not None and not row.group_size:
        raise UsageError(f"--group-size: {row.title} has no groups; leave it out")
