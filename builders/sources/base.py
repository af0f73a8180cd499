"""What every source of weights offers: a ModelSpec, shapes, and tensors read lazily by name.

It opens nothing itself. Names and layouts are Hugging Face's, weights are [out, in], whatever the file.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

from builders.families.common.base import Family
from tpforge.dtypes import DType
from tpforge.errors import InputRefused
from tpforge.model import ModelSpec

if TYPE_CHECKING:
    import torch

    from builders.sources.quantized.reading import QuantizedWeights

SourceKind = Literal["huggingface", "hub", "gguf"]


class WeightReader(Protocol):
    """Tensors by name, with what is known of them before they are read."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor."""

    @property
    def dtypes(self) -> dict[str, DType]:
        """The type in which `read` gives each tensor; tensors of other types are left out."""

    def read(self, name: str) -> torch.Tensor:
        """One tensor; a view of the mapped file where that is possible."""


class Source(Protocol):
    """A checkpoint that is open; close it, or use it as a context manager."""

    @property
    def kind(self) -> SourceKind:
        """Where it lies."""

    @property
    def location(self) -> str:
        """What the user gave."""

    @property
    def path(self) -> Path:
        """The local directory or .gguf file."""

    @property
    def revision(self) -> str | None:
        """The commit it comes from, when known."""

    @property
    def license(self) -> str | None:
        """Its license as it declares it, when it does."""

    @property
    def spec(self) -> ModelSpec:
        """What its config declares."""

    @property
    def family(self) -> Family:
        """The family of its architecture."""

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor it holds."""

    @property
    def dtypes(self) -> dict[str, DType]:
        """The type in which `read` gives each tensor; tensors of other types are left out."""

    @property
    def quantized(self) -> QuantizedWeights | None:
        """Its quantized matrices, whose numbers are kept; `read` gives the values they stand for."""

    @property
    def input_files(self) -> tuple[Path, ...]:
        """Every file that decides the result, sorted."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about how the weights are read."""

    def read(self, name: str) -> torch.Tensor:
        """One tensor; a view of the mapped file where that is possible."""

    def write_tokenizer(self, out: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and what belongs to them into `out`."""

    def close(self) -> None:
        """Release the mapped files."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


def each_problem(error: InputRefused) -> list[str]:
    """The problems of an error, one a line; those of a list repeat its headline."""
    headline, *listed = str(error).split("\n")
    return [f"{headline} {line.strip()}" for line in listed] or [headline]
