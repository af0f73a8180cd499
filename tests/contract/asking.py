"""Requests to the models, and answers as values; shared by the contract tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.contract.fake_triton import Request, Sent, Server
from triton_repo.render.contract import expected_tensors

NUMPY = {
    "BYTES": np.object_,
    "BOOL": np.bool_,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT64": np.uint64,
    "UINT8": np.uint8,
    "FP16": np.float16,
    "FP32": np.float32,
}


def alone(values: dict[str, Any], *, of: str = "text_input") -> dict[str, Any]:
    """What is asked, with `exclude_input_in_output` for every item unless the test says itself."""
    shape = np.array(values[of], dtype=object).shape
    size = shape[0] if len(shape) > 1 else 1
    return {"exclude_input_in_output": [[True]] * size, **values}


def tensors(model: str, **values: Any) -> dict[str, npt.NDArray[Any]]:
    """Inputs of a model with the contract's types; a plain value becomes one item of a batch."""
    contract = {tensor.name: tensor for tensor in expected_tensors(model).inputs}
    made = {}
    for name, value in values.items():
        array = np.array(value, dtype=NUMPY[contract[name].datatype])
        missing = 1 + len(contract[name].dims) - array.ndim
        made[name] = array.reshape((1,) * missing + array.shape)
    return made


def prompt(ids: Sequence[int], **values: Any) -> Request:
    """A request to tensorrt_llm for one prompt."""
    values = alone({"input_ids": list(ids), "input_lengths": len(ids), **values}, of="input_lengths")
    return Request(tensors("tensorrt_llm", **values))


def ask_bls(server: Server, **values: Any) -> list[Sent]:
    """All responses of tensorrt_llm_bls."""
    return list(server.run("tensorrt_llm_bls", Request(tensors("tensorrt_llm_bls", **alone(values)))))


def ask_members(server: Server, **values: Any) -> list[Sent]:
    """All responses of preprocessing, tensorrt_llm and postprocessing, joined as the ensemble joins them."""
    from triton_repo.render.contract import ensemble_steps

    pool: dict[str, npt.NDArray[Any]] = tensors("ensemble", **alone(values))
    first, generate, last = ensemble_steps()
    prepared = next(server.run(first.model, Request(_mapped(pool, first.inputs))))
    if prepared.error is not None:
        return [prepared]
    pool |= {own: prepared.tensors[name] for name, own in first.outputs if name in prepared.tensors}
    answers = []
    for sent in server.run(generate.model, Request(_mapped(pool, generate.inputs))):
        if sent.error is not None:
            answers.append(sent)
            continue
        outputs = {own: sent.tensors[name] for name, own in generate.outputs if name in sent.tensors}
        decoded = next(server.run(last.model, Request(_mapped(outputs, last.inputs))))
        outputs |= {own: decoded.tensors[name] for name, own in last.outputs}
        answers.append(Sent(outputs, None, sent.final))
    return answers


def texts(answers: list[Sent]) -> list[str]:
    """The text of each response that has one."""
    return [sent.tensors["text_output"][0].decode() for sent in answers if "text_output" in sent.tensors]


def tokens(answers: list[Sent]) -> list[list[int]]:
    """The tokens of each response."""
    return [sent.tensors["output_ids"][0, 0].tolist() for sent in answers if "output_ids" in sent.tensors]


def _mapped(pool: dict[str, npt.NDArray[Any]], names: Any) -> dict[str, npt.NDArray[Any]]:
    return {name: pool[own] for name, own in names if own in pool}
