"""Tokens to text: each run of tokens is decoded by itself, so it serves streams and whole answers alike.

It keeps no text; tensorrt_llm cuts streams where a run can be decoded by itself. Where `stops_abandoned`
says so it stops the streams that nobody listens to any more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from serving.abandoned import Abandoned
from serving.detokenize import decode_text
from serving.fields import FieldError, Inputs, field_error
from serving.parameters import Parameters
from serving.relay import Mark, mark_behind
from serving.tensors import error_response, read_inputs, response, text_tensor
from serving.tokenizer import Tokenizer


class TritonPythonModel:
    """The model's name for Triton."""

    def initialize(self, args: dict[str, str]) -> None:
        try:
            parameters = Parameters(args["model_config"], folder=Path(__file__).parent)
            self._tokenizer = Tokenizer(
                parameters.path("tokenizer_dir"),
                skip_special_tokens=parameters.boolean("skip_special_tokens"),
            )
            self._abandoned = (
                Abandoned(model="tensorrt_llm", log_error=pb_utils.Logger.log_error)
                if parameters.boolean("stops_abandoned")
                else None
            )
        except ValueError as error:
            raise pb_utils.TritonModelException(str(error)) from error

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            try:
                inputs = read_inputs(request)
                if self._abandoned is not None:
                    self._abandoned.look(request, mark=_mark(inputs))
                responses.append(response({"OUTPUT": self._texts(inputs)}))
            except FieldError as error:
                responses.append(error_response(str(error)))
        return responses

    def _texts(self, inputs: Inputs) -> Any:
        """The text of each sequence, one after the other: upstream's tensor has no batch dimension."""
        tokens, lengths = inputs["TOKENS_BATCH"], inputs["SEQUENCE_LENGTH"]
        if lengths.shape != tokens.shape[:2]:
            raise field_error(
                "SEQUENCE_LENGTH", f"has shape {list(lengths.shape)}, expected {list(tokens.shape[:2])}"
            )
        runs = [tokens[place][: max(0, int(lengths[place]))].tolist() for place in np.ndindex(*lengths.shape)]
        if any(token < 0 for run in runs for token in run):
            raise field_error("TOKENS_BATCH", "holds negative token ids, expected 0 or more")
        return text_tensor([decode_text(run, self._tokenizer.decode) for run in runs])


def _mark(inputs: Inputs) -> Mark:
    """The mark of the stream that the tokens are a chunk of; chunks have one sequence."""
    tokens, lengths = inputs["TOKENS_BATCH"], inputs["SEQUENCE_LENGTH"]
    return mark_behind(tokens.reshape(-1), int(lengths.flat[0])) if lengths.size == 1 else ()
