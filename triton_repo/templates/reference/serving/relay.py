"""What the models tell each other beside their tensors, by request ids and marks of their own.

tensorrt_llm tells tensorrt_llm_bls, and nobody else, that it failed after its first response.

Triton 2.51 delivers an error to a model that calls another only as the first response: a later one never
arrives, and the caller would wait for ever. So to such a caller, known by the request id that it made, the
error goes as a response whose sequence_length is -1 and whose output_ids are the message's bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

SEPARATOR = "\x1f"
"""Between the client's request id and what tensorrt_llm_bls adds to make its own requests unique."""

_ABANDONED = SEPARATOR + "abandoned"
_FAILED = -1


def is_relayed(request_id: str) -> bool:
    """Whether tensorrt_llm_bls made the request."""
    return SEPARATOR in request_id


def abandoned_id(request_id: str) -> str:
    """The id of postprocessing's wish that a request be stopped because its client is gone."""
    return request_id + _ABANDONED


def abandoned_request(request_id: str) -> str | None:
    """The id of the request that such a wish names; None for a client's own."""
    return request_id.removesuffix(_ABANDONED) if request_id.endswith(_ABANDONED) else None


def failure_tensors(message: str) -> dict[str, npt.NDArray[Any]]:
    """The tensors that say that there will be no more answers, and why."""
    return {
        "output_ids": np.frombuffer(message.encode(), dtype=np.uint8).astype(np.int32)[None, None],
        "sequence_length": np.array([[_FAILED]], dtype=np.int32),
    }


def failure_of(outputs: Mapping[str, npt.NDArray[Any]]) -> str | None:
    """The message in such a response; None for an answer."""
    if int(outputs["sequence_length"].flat[0]) != _FAILED:
        return None
    return bytes(outputs["output_ids"].reshape(-1).astype(np.uint8)).decode()
