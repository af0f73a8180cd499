"""A rank file, read by name and expected shape. It does not know which tensors a model has."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .dequantize import Quantized, read_dequantized
from .errors import EngineError
from .layers.norms import LayerNorm, Norm, RmsNorm


class RankFile:
    """A rank file that remembers what was not read, so that nothing in it is silently left out.

    `quantized` says which matrices are quantized; `read` gives the values that they stand for.

    Raises:
        EngineError: the file cannot be read.
    """

    def __init__(
        self, path: Path, *, device: torch.device, dtype: torch.dtype, quantized: Quantized | None = None
    ) -> None:
        self._path, self._device, self._dtype, self._quantized = path, device, dtype, quantized
        try:
            self._file = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise EngineError(f"{path}: cannot be read: {error}") from error
        self._unread: set[str] = set(self._file.keys())  # type: ignore[no-untyped-call]

    def holds(self, name: str) -> bool:
        """Whether the file has the tensor, and it was not read yet."""
        return name in self._unread

    def read(self, name: str, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor of `shape` in `dtype`, without it in that of the rank, on the device of the rank.

        A quantized matrix comes as the values that it stands for.

        Raises:
            EngineError: it is missing, was read before, or has another shape.
        """
        dtype = dtype or self._dtype
        if self._quantized is not None and self._quantized.applies(name):
            values = read_dequantized(self, name, shape, self._quantized)
            return values.to(self._device, dtype).contiguous()
        return self.read_unconverted(name, shape).to(self._device, dtype)

    def read_if(
        self, name: str, shape: tuple[int, ...], *, dtype: torch.dtype | None = None
    ) -> Tensor | None:
        """As `read`, or None when the file does not hold it."""
        return self.read(name, shape, dtype=dtype) if self.holds(name) else None

    def read_unconverted(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of `shape` as it is in the file, on the CPU.

        Raises:
            EngineError: it is missing, was read before, or has another shape.
        """
        if name not in self._unread:
            raise EngineError(f"{self._path}: {name} is missing")
        self._unread.remove(name)
        tensor: Tensor = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        if tuple(tensor.shape) != shape:
            found, expected = list(tensor.shape), list(shape)
            raise EngineError(f"{self._path}: {name}: found shape {found}, expected {expected}")
        return tensor

    def dtype(self, name: str) -> str:
        """The type of a tensor in the file, as its header spells it.

        Raises:
            EngineError: it is missing.
        """
        if name not in self._unread:
            raise EngineError(f"{self._path}: {name} is missing")
        found: str = self._file.get_slice(name).get_dtype()  # type: ignore[no-untyped-call]
        return found

    def read_float32(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of `shape` in float32 on the device of the rank; errors as `read_unconverted`."""
        return self.read_unconverted(name, shape).to(self._device, torch.float32)

    def read_norm(self, name: str, shape: tuple[int, ...], *, kind: str, bias: bool, epsilon: float) -> Norm:
        """The norm `name`, of one weight of `shape` and, where `bias` says so, one bias."""
        weight = self.read(f"{name}.weight", shape)
        if kind == "rmsnorm":
            return RmsNorm(weight, epsilon)
        return LayerNorm(weight, self.read(f"{name}.bias", shape) if bias else None, epsilon)

    def refuse(self, problem: str) -> None:
        """Raise EngineError for what the tensors say together."""
        raise EngineError(f"{self._path}: {problem}")

    def refuse_unread(self) -> None:
        """Raise EngineError when a tensor was not read: it would be silently missing from the result."""
        if self._unread:
            raise EngineError(f"{self._path}: not understood: {', '.join(sorted(self._unread))}")
