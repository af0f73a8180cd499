"""Text to tokens: prompts, stop words and bad words, with upstream's tensor names.

It refuses what cannot fit before tokenizing it, and what nobody waits for any more; sampling values are
checked by tensorrt_llm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from serving.fields import FieldError, Inputs, field_error, refuse_unsupported
from serving.outcomes import Outcomes
from serving.parameters import Parameters
from serving.tensors import error_response, gone_response, read_inputs, response
from serving.tokenizer import Tokenizer
from serving.words import Words, check_words, pack_words


class TritonPythonModel:
    """The model's name for Triton."""

    def initialize(self, args: dict[str, str]) -> None:
        try:
            self._configure(args["model_config"])
            self._outcomes = Outcomes(model=args["model_name"], version=args["model_version"])
        except ValueError as error:
            raise pb_utils.TritonModelException(str(error)) from error

    def _configure(self, model_config: str) -> None:
        parameters = Parameters(model_config, folder=Path(__file__).parent)
        self._tokenizer = Tokenizer(parameters.path("tokenizer_dir"))
        self._add_special_tokens = parameters.boolean("add_special_tokens")
        self._max_input_len = parameters.integer("max_input_len")
        self._max_seq_len = parameters.integer("max_seq_len")
        ends = parameters.integers("end_ids")
        own = self._tokenizer.end_id if self._tokenizer.end_id in ends else None
        self._end_id = _first(own, parameters.optional_integer("end_id"), self._tokenizer.end_id, -1)
        # The C++ backend knows one end token; the model's others it is given as words to stop at.
        self._more_ends = tuple((token,) for token in ends if token != self._end_id)
        self._pad_id = _first(
            parameters.optional_integer("pad_id"), self._tokenizer.pad_id, max(self._end_id, 0)
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            try:
                if request.is_cancelled():
                    responses.append(gone_response())
                    continue
                responses.append(response(self._process(read_inputs(request))))
            except FieldError as error:
                self._outcomes.refused()
                responses.append(error_response(str(error)))
        return responses

    def _process(self, inputs: Inputs) -> dict[str, Any]:
        refuse_unsupported(inputs)
        queries, output_lens = inputs["QUERY"], inputs["REQUEST_OUTPUT_LEN"]
        size = queries.shape[0]
        prompts = [
            _of_item(index, size, partial(self._prompt, queries[index, 0], int(output_lens[index, 0])))
            for index in range(size)
        ]
        width = max(len(prompt) for prompt in prompts)
        padded = [prompt + [self._pad_id] * (width - len(prompt)) for prompt in prompts]
        pad_ids = np.array(inputs.get("PAD_ID", [[self._pad_id]] * size), dtype=np.int32)
        return {
            "INPUT_ID": np.array(padded, dtype=np.int32),
            "REQUEST_INPUT_LEN": np.array([[len(prompt)] for prompt in prompts], dtype=np.int32),
            # Upstream's always gives the start of a decoder, though only encoder-decoder models read it.
            "DECODER_INPUT_ID": pad_ids,
            "REQUEST_DECODER_INPUT_LEN": np.ones((size, 1), dtype=np.int32),
            "BAD_WORDS_IDS": pack_words(self._words(inputs, "BAD_WORDS_DICT", size)),
            "STOP_WORDS_IDS": pack_words(self._stop_words(inputs, size)),
            "REQUEST_OUTPUT_LEN": np.array(output_lens, dtype=np.int32),
            "OUT_END_ID": np.array(inputs.get("END_ID", [[self._end_id]] * size), dtype=np.int32),
            "OUT_PAD_ID": pad_ids,
        }

    def _prompt(self, query: bytes, output_len: int) -> list[int]:
        """The tokens of one prompt, within the limits."""
        if output_len < 1:
            raise field_error("REQUEST_OUTPUT_LEN", f"found {output_len}, expected 1 or more")
        limit = self._max_input_len
        # No tokenizer makes fewer tokens than this, so a huge text is refused without tokenizing it.
        most_bytes = limit * self._tokenizer.longest_token_bytes
        if len(query) > most_bytes:
            raise field_error(
                "QUERY",
                f"has {len(query)} bytes, which cannot fit max_input_len {limit} tokens "
                f"({most_bytes} bytes at most); shorten it",
            )
        text = _decode(query, "QUERY")
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=self._add_special_tokens)
        if not query or not tokens:
            raise field_error("QUERY", "is empty, expected text")
        if len(tokens) > limit:
            raise field_error(
                "QUERY", f"has {len(tokens)} tokens, more than max_input_len {limit}; shorten it"
            )
        if len(tokens) + output_len > self._max_seq_len:
            raise field_error(
                "REQUEST_OUTPUT_LEN",
                f"{len(tokens)} prompt tokens + {output_len} output tokens are more than max_seq_len "
                f"{self._max_seq_len}; expected {self._max_seq_len - len(tokens)} or less",
            )
        return tokens

    def _stop_words(self, inputs: Inputs, size: int) -> list[Words]:
        """The words that end each item, with the model's further end tokens unless it names one itself."""
        more = () if "END_ID" in inputs else self._more_ends
        return [(*words, *more) for words in self._words(inputs, "STOP_WORDS_DICT", size)]

    def _words(self, inputs: Inputs, field: str, size: int) -> list[Words]:
        """The tokens of each word of each item; empty words, which clients send for none, are left out."""
        if field not in inputs:
            return [()] * size
        for row in inputs[field]:
            check_words(row, field=field)
        return [
            tuple(tuple(ids) for word in row if (ids := self._word(word, field))) for row in inputs[field]
        ]

    def _word(self, word: bytes, field: str) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(_decode(word, field), add_special_tokens=False)
        return tokens


def _decode(text: bytes, field: str) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise field_error(
            field, f"byte {error.start} is not valid UTF-8 ({error.reason}); expected UTF-8 text"
        ) from error


def _of_item(index: int, size: int, make: Callable[[], list[int]]) -> list[int]:
    """Make one item's prompt; in a batch, the error says which item it was."""
    try:
        return make()
    except FieldError as error:
        if size == 1:
            raise
        raise FieldError(f"batch item {index}: {error}") from error


def _first(*values: int | None) -> int:
    """The first that is not None."""
    return next(value for value in values if value is not None)
