"""Triton's requests and responses as numpy arrays and errors; the only module that knows its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


def read_inputs(request: Any) -> dict[str, npt.NDArray[Any]]:
    """Every input that the request has, by name, each with its batch dimension."""
    return {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}


def read_item(inputs: Mapping[str, npt.NDArray[Any]], index: int) -> dict[str, npt.NDArray[Any]]:
    """A copy of one item of a batch, still with a batch dimension (of 1)."""
    return {name: values[index : index + 1].copy() for name, values in inputs.items()}


def on_wire(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An input as another model takes it: a scalar, which config.pbtxt reshapes to [batch], is [batch, 1]."""
    return values[:, None] if values.ndim == 1 else values


def response(tensors: Mapping[str, npt.NDArray[Any]]) -> Any:
    """A response with these tensors."""
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, values) for name, values in tensors.items()])


class Unavailable(str):
    """Why there is no answer now, where one may be had later: Triton tells clients by its own status."""


def gone_response() -> Any:
    """The answer to a request whose client has gone: nobody reads it, but it ends the ensemble."""
    error = pb_utils.TritonError("the request was cancelled", pb_utils.TritonError.CANCELLED)
    return pb_utils.InferenceResponse(output_tensors=[], error=error)


def error_response(message: str) -> Any:
    """A response that says why there is no answer."""
    if isinstance(message, Unavailable):
        error = pb_utils.TritonError(str(message), pb_utils.TritonError.UNAVAILABLE)
    else:
        error = pb_utils.TritonError(message)
    return pb_utils.InferenceResponse(output_tensors=[], error=error)


def text_tensor(texts: list[str]) -> npt.NDArray[np.object_]:
    """Texts as a STRING tensor of one dimension."""
    return np.array([text.encode() for text in texts], dtype=np.object_)
