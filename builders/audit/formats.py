"""Weights of another format beside those that are read, so that nobody wonders which were converted.

It opens none of them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from builders.sources.weight_files import PICKLES

_OTHERS = (*PICKLES, "*.safetensors", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.npz")
# What training leaves behind is not a second copy of the weights.
_NOT_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")


def other_formats(folder: Path, *, used: Collection[str]) -> list[str]:
    """A line for each kind of weight file in `folder` that is not among the `used` ones."""
    if not used:
        return []
    lines = []
    for pattern in _OTHERS:
        names = sorted(
            path.name
            for path in folder.glob(pattern)
            if path.name not in used and not path.name.startswith(_NOT_WEIGHTS)
        )
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            lines.append(
                f"{', '.join(names[:3])}{more}: weights beside {', '.join(sorted(used)[:1])}"
                f"{' ...' if len(used) > 1 else ''}, which alone is read; are they the same?"
            )
    return lines
