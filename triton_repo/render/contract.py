"""The tensors that every model of a repository takes and gives: the contract that clients are written for.

It is data (contract.toml) with its records; it neither renders nor talks to a server.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from tpforge.errors import UsageError

MODELS = ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble", "tensorrt_llm_bls")
_FLAGS = ("optional", "ragged", "scalar")


@dataclass(frozen=True)
class TensorContract:
    """One tensor; `dims` are without the batch dimension, -1 is any size.

    `datatype` is spelled as on the wire (``INT32``, ``BYTES``), `config_datatype` as in config.pbtxt. The
    model sees a `scalar` without its one dimension, so that a batch of them is [batch].
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    optional: bool = False
    ragged: bool = False
    scalar: bool = False

    @property
    def config_datatype(self) -> str:
        """The spelling in config.pbtxt: ``TYPE_INT32``, ``TYPE_STRING``."""
        return "TYPE_STRING" if self.datatype == "BYTES" else f"TYPE_{self.datatype}"


@dataclass(frozen=True)
class ModelContract:
    """All tensors of one model, in upstream's order, and the keys of its `parameters`."""

    model: str
    inputs: tuple[TensorContract, ...]
    outputs: tuple[TensorContract, ...]
    parameters: tuple[str, ...] = ()


@dataclass(frozen=True)
class EnsembleStep:
    """One member of the ensemble; each pair is the member's tensor and the ensemble's."""

    model: str
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]


def expected_tensors(model: str) -> ModelContract:
    """The tensors of a model.

    Raises:
        UsageError: no model of the repository has that name.
    """
    contracts = _contracts()
    if model not in contracts:
        raise UsageError(f"model {model!r} is not in the contract; it has {', '.join(contracts)}")
    return contracts[model]


LLM_MODEL = "tensorrt_llm"
"""The one model of the llmapi repository."""


@cache
def llm_tensors() -> ModelContract:
    """The tensors of the llmapi repository's model, which has no batch dimension."""
    text = resources.files("triton_repo.render").joinpath("llm_contract.toml").read_text("utf-8")
    content = tomllib.loads(text)[LLM_MODEL]
    return ModelContract(
        model=LLM_MODEL,
        inputs=_tensors(content["inputs"], place="llmapi inputs"),
        outputs=_tensors(content["outputs"], place="llmapi outputs"),
    )


@cache
def ensemble_steps() -> tuple[EnsembleStep, ...]:
    """How the ensemble joins its members, in order."""
    steps = []
    for step in _content()["ensemble"]["steps"]:
        inputs = tuple((member, own) for member, own in step["inputs"])
        outputs = tuple((member, own) for member, own in step["outputs"])
        steps.append(EnsembleStep(model=step["model"], inputs=inputs, outputs=outputs))
    return tuple(steps)


@cache
def _contracts() -> dict[str, ModelContract]:
    content = _content()
    return {
        model: ModelContract(
            model=model,
            inputs=_tensors(content[model]["inputs"], place=f"{model} inputs"),
            outputs=_tensors(content[model]["outputs"], place=f"{model} outputs"),
            parameters=tuple(content[model]["parameters"]),
        )
        for model in MODELS
    }


def _tensors(rows: list[list[Any]], *, place: str) -> tuple[TensorContract, ...]:
    tensors = []
    for name, datatype, dims, flags in rows:
        assert set(flags) <= set(_FLAGS), f"contract.toml, {place}, {name}: unknown flag in {flags}"
        tensors.append(
            TensorContract(
                name=name,
                datatype="BYTES" if datatype == "STRING" else datatype,
                dims=tuple(dims),
                optional="optional" in flags,
                ragged="ragged" in flags,
                scalar="scalar" in flags,
            )
        )
    names = [tensor.name for tensor in tensors]
    assert len(names) == len(set(names)), f"contract.toml, {place}: a tensor is listed twice"
    return tuple(tensors)


@cache
def _content() -> dict[str, Any]:
    return tomllib.loads(resources.files("triton_repo.render").joinpath("contract.toml").read_text("utf-8"))
