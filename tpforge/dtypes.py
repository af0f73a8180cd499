"""Element types and their spellings in Hugging Face configs, TensorRT-LLM, torch and safetensors.

It holds no tensors and imports no tensor library.
"""

from __future__ import annotations

from enum import StrEnum

from tpforge.errors import InputRefused


class DType(StrEnum):
    """The element type of a weight, spelled as Hugging Face and TensorRT-LLM configs spell it."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"

    @property
    def num_bytes(self) -> int:
        """Bytes of one element."""
        return 4 if self is DType.FLOAT32 else 2

    @property
    def safetensors(self) -> str:
        """The spelling in a safetensors header."""
        return _SAFETENSORS[self]


_SAFETENSORS = {DType.FLOAT32: "F32", DType.FLOAT16: "F16", DType.BFLOAT16: "BF16"}
_FROM_SAFETENSORS = {spelling: dtype for dtype, spelling in _SAFETENSORS.items()}


def parse_dtype(spelling: str) -> DType:
    """The type for ``bfloat16``, ``torch.bfloat16`` or ``BF16``.

    Raises:
        InputRefused: the spelling names no supported float type.
    """
    bare = spelling.removeprefix("torch.")
    if bare in _FROM_SAFETENSORS:
        return _FROM_SAFETENSORS[bare]
    try:
        return DType(bare)
    except ValueError:
        known = ", ".join(DType)
        raise InputRefused(f"dtype {spelling!r} is not supported; use one of {known}") from None
