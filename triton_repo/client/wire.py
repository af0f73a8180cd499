"""Tensors and requests as Triton's gRPC protocol has them: numpy in, raw bytes out, and back.

It opens no connection. Nothing is checked on the way out, so that wrong requests can be made too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import deserialize_bytes_tensor, triton_to_np_dtype

Array = NDArray[Any]
Parameter = bool | int | str


@dataclass(frozen=True, eq=False)
class Tensor:
    """A named array; `datatype` is the wire's (``INT32``, ``BYTES``); BYTES arrays hold `bytes`."""

    name: str
    datatype: str
    values: Array


@dataclass(frozen=True, eq=False)
class Response:
    """One answer on a stream.

    `final` is the server's flag. `error` is its message, and then there are no outputs; a trailing
    response that only carries the flag has none either.
    """

    outputs: Mapping[str, Array]
    final: bool
    error: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether it only says that the request is over."""
        return not self.outputs and self.error is None


def tensor(name: str, datatype: str, values: Any) -> Tensor:
    """A tensor of the given values, in the datatype's numpy type; text becomes UTF-8 bytes.

    `values` is nested as the tensor's shape is: ``[[5]]`` is the batch of one scalar.
    """
    if datatype == "BYTES":
        array = np.array(values, dtype=object)
        encoded = [item.encode() if isinstance(item, str) else bytes(item) for item in array.reshape(-1)]
        flat = np.empty(len(encoded), dtype=object)
        flat[:] = encoded
        return Tensor(name, datatype, flat.reshape(array.shape))
    return Tensor(name, datatype, np.array(values, dtype=triton_to_np_dtype(datatype)))


def encode_request(
    model: str,
    tensors: Sequence[Tensor],
    *,
    request_id: str = "",
    parameters: Mapping[str, Parameter] | None = None,
) -> Any:
    """A ModelInferRequest that asks for a final response also when it is empty."""
    request = service_pb2.ModelInferRequest(model_name=model, id=request_id)
    for item in tensors:
        described = request.inputs.add(name=item.name, datatype=item.datatype)
        described.shape.extend(item.values.shape)
        request.raw_input_contents.append(_to_bytes(item))
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    for key, value in (parameters or {}).items():
        field = "bool_param" if isinstance(value, bool) else _PARAMETER_FIELDS[type(value)]
        setattr(request.parameters[key], field, value)
    return request


def decode_response(message: Any) -> Response:
    """A ModelStreamInferResponse as a record."""
    answer = message.infer_response
    final = answer.parameters["triton_final_response"].bool_param
    if message.error_message:
        return Response(outputs={}, final=final, error=str(message.error_message))
    outputs = {}
    for described, content in zip(answer.outputs, answer.raw_output_contents, strict=True):
        if described.datatype == "BYTES":
            values = deserialize_bytes_tensor(content)
        else:
            values = np.frombuffer(content, dtype=triton_to_np_dtype(described.datatype))
        outputs[str(described.name)] = values.reshape(tuple(described.shape))
    return Response(outputs=outputs, final=final)


_PARAMETER_FIELDS = {int: "int64_param", str: "string_param"}


def _to_bytes(item: Tensor) -> bytes:
    if item.datatype != "BYTES":
        return np.ascontiguousarray(item.values).tobytes()
    pieces = []
    for value in item.values.reshape(-1):
        pieces += [len(value).to_bytes(4, "little"), value]
    return b"".join(pieces)
