"""What the models tell each other beside their tensors, by request ids and marks of their own.

A client may give no id to its stream, or the same to several. So that postprocessing can name a stream of an
ensemble to tensorrt_llm, tensorrt_llm gives it a mark: two negative numbers behind the tokens of each chunk,
beyond the chunk's sequence_length. Triton 2.51 has no other way: its models set no response parameters.

tensorrt_llm tells tensorrt_llm_bls, and nobody else, that it failed after its first response.

Triton 2.51 delivers an error to a model that calls another only as the first response: a later one never
arrives, and the caller would wait for ever. So to such a caller, known by the request id that it made, the
error goes as a response whose sequence_length is -1 and whose output_ids are the message's bytes.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Container, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

SEPARATOR = "\x1f"
"""Between the client's request id and what tensorrt_llm_bls adds to make its own requests unique."""

Mark = tuple[int, ...]

_ABANDONED = SEPARATOR + "abandoned"
_MARK_LENGTH = 2
_WISH = re.compile(",".join([r"(-\d{1,10})"] * _MARK_LENGTH) + _ABANDONED)
_FAILED = -1


def is_relayed(request_id: str) -> bool:
    """Whether tensorrt_llm_bls made the request."""
    return SEPARATOR in request_id


def new_mark(inputs: Container[str], *, request_id: str) -> Mark:
    """A name for a request of an ensemble, which nobody guesses; empty for any other.

    An ensemble's requests are those that have the start of a decoder, which preprocessing always gives.
    """
    if "decoder_input_ids" not in inputs or is_relayed(request_id):
        return ()
    return tuple(-1 - secrets.randbelow(2**31) for _ in range(_MARK_LENGTH))


def mark_behind(tokens: npt.NDArray[np.int32], length: int) -> Mark:
    """The mark behind the first `length` tokens of a chunk; empty when there is none."""
    found = tokens[length:].tolist()
    return tuple(found) if len(found) == _MARK_LENGTH and max(found) < 0 else ()


def abandoned_id(mark: Mark) -> str:
    """The id of postprocessing's wish that a request be stopped because its client is gone."""
    return ",".join(map(str, mark)) + _ABANDONED


def abandoned_mark(request_id: str) -> Mark:
    """The mark of the request that such a wish names; empty for a client's own."""
    found = _WISH.fullmatch(request_id)
    return () if found is None else tuple(map(int, found.groups()))


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
