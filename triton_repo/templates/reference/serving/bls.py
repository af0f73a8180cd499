"""How tensorrt_llm_bls calls the other models for one prompt, and makes text of what they answer.

It checks nothing that the called models check; their errors are passed on as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import triton_python_backend_utils as pb_utils

from .detokenize import TextStream, decode_text
from .fields import Inputs
from .relay import failure_of
from .stop_text import StopText, answer_end
from .tensors import on_wire, response, text_tensor
from .tokenizer import Tokenizer
from .turns import Turns

Tensors = dict[str, npt.NDArray[Any]]


class ModelBusy(Exception):
    """A model has no room for the request now; Triton's own exception cannot be built on while this loads."""


_TO_PREPROCESSING = {
    "text_input": "QUERY",
    "max_tokens": "REQUEST_OUTPUT_LEN",
    "bad_words": "BAD_WORDS_DICT",
    "stop_words": "STOP_WORDS_DICT",
    "end_id": "END_ID",
    "pad_id": "PAD_ID",
}
_FROM_PREPROCESSING = {
    "INPUT_ID": "input_ids",
    "REQUEST_INPUT_LEN": "input_lengths",
    "DECODER_INPUT_ID": "decoder_input_ids",
    "REQUEST_OUTPUT_LEN": "request_output_len",
    "BAD_WORDS_IDS": "bad_words_list",
    "STOP_WORDS_IDS": "stop_words_list",
    "OUT_END_ID": "end_id",
    "OUT_PAD_ID": "pad_id",
}
_TO_TENSORRT_LLM = {
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "temperature": "temperature",
    "length_penalty": "len_penalty",
    "repetition_penalty": "repetition_penalty",
    "min_tokens": "min_tokens",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
    "return_log_probs": "return_log_probs",
    "num_return_sequences": "num_return_sequences",
    "stream": "streaming",
    "exclude_input_in_output": "exclude_input_in_output",
    "return_perf_metrics": "return_perf_metrics",
    "return_num_input_tokens": "return_num_input_tokens",
    "return_num_output_tokens": "return_num_output_tokens",
}
_PASSED_ON = (
    "cum_log_probs",
    "output_log_probs",
    "sequence_index",
    "kv_cache_alloc_new_blocks",
    "kv_cache_reused_blocks",
    "kv_cache_alloc_total_blocks",
    "arrival_time_ns",
    "first_scheduled_time_ns",
    "first_token_time_ns",
    "last_token_time_ns",
    "acceptance_rate",
    "total_accepted_draft_tokens",
    "total_draft_tokens",
    "num_input_tokens",
    "num_output_tokens",
)


class Members:
    """The models that are called; `is_gone` says whether the client has left while a call waits for its turn.

    Raises (every method):
        TritonModelException: the model's own error message.
        Gone: the client left before the call was begun.
    """

    def __init__(self, *, tensorrt_llm: str, decoupled: bool) -> None:
        self._tensorrt_llm = tensorrt_llm
        self._decoupled = decoupled
        self._turns = Turns()

    def preprocess(self, inputs: Inputs, *, request_id: str, is_gone: Callable[[], bool]) -> Tensors:
        """The tensorrt_llm inputs that preprocessing makes of a prompt."""
        request = pb_utils.InferenceRequest(
            model_name="preprocessing",
            inputs=_renamed(inputs, _TO_PREPROCESSING),
            requested_output_names=list(_FROM_PREPROCESSING),
            request_id=request_id,
        )
        with self._turns.take(is_gone):
            outputs = _outputs(request.exec())
        return {_FROM_PREPROCESSING[name]: values for name, values in outputs.items()}

    def generate(
        self, inputs: Inputs, prepared: Tensors, *, request_id: str, is_gone: Callable[[], bool]
    ) -> Iterator[Any]:
        """The responses of tensorrt_llm, as they come; some may be errors."""
        request = pb_utils.InferenceRequest(
            model_name=self._tensorrt_llm,
            inputs=[
                *(pb_utils.Tensor(name, values) for name, values in prepared.items()),
                *_renamed(inputs, _TO_TENSORRT_LLM),
            ],
            requested_output_names=["output_ids", "sequence_length", "batch_index", *_PASSED_ON],
            request_id=request_id,
        )
        # It comes back with the first response; what follows needs no turn.
        with self._turns.take(is_gone):
            return self._responses(request)

    def stop(self, request_id: str) -> None:
        """End a request of tensorrt_llm; harmless when there is none. It waits for no turn."""
        one = np.ones((1, 1), dtype=np.int32)
        request = pb_utils.InferenceRequest(
            model_name=self._tensorrt_llm,
            inputs=[
                pb_utils.Tensor("input_ids", one),
                pb_utils.Tensor("input_lengths", one),
                pb_utils.Tensor("request_output_len", one),
                pb_utils.Tensor("stop", np.ones((1, 1), dtype=np.bool_)),
            ],
            requested_output_names=[],
            request_id=request_id,
        )
        for _ in self._responses(request):
            pass

    def _responses(self, request: Any) -> Iterator[Any]:
        if self._decoupled:
            return iter(request.exec(decoupled=True))
        return iter([request.exec()])


class Texts:
    """From the tensorrt_llm responses of one prompt to the client's, with the text decoded.

    `accumulate` streams the text so far rather than the new text. TensorRT-LLM's own backend knows stop
    words by their tokens alone, so their text is looked for here too: `stop` is called once words have ended
    all `num_sequences` of a stream. `prompt` is what a whole answer begins with, and not searched.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        batch_index: int,
        streaming: bool,
        accumulate: bool,
        stop_words: Sequence[str],
        prompt: str,
        num_sequences: int,
        stop: Callable[[], None],
    ) -> None:
        self._decode = tokenizer.decode
        self._stop_words, self._prompt, self._stop = stop_words, prompt, stop
        self._num_sequences = num_sequences
        self._stop_texts: dict[int, StopText] = {}
        self._stopped: set[int] = set()
        self._batch_index = batch_index
        self._streaming = streaming
        self._accumulate = accumulate
        self._streams: dict[int, TextStream] = {}
        self._so_far: dict[int, str] = {}

    def answers(self, responses: Iterable[Any]) -> Iterator[Any]:
        """A client's response for each of tensorrt_llm's, and one more for text left over at the end.

        Raises:
            TritonModelException: tensorrt_llm's error, which ends its responses.
        """
        for reply in responses:
            outputs = _outputs(reply)
            # TensorRT-LLM ends with its last tokens; others may send an empty response after them.
            if not outputs:
                continue
            failure = failure_of(outputs)
            if failure is not None:
                raise pb_utils.TritonModelException(failure)
            if (answer := self._answer(outputs)) is not None:
                yield answer
        for index, stream in self._streams.items():
            if index not in self._stopped and (rest := self._until_stop(index, stream.flush())):
                text = self._grown(index, rest)
                yield self._response({"sequence_index": np.array([[index]], dtype=np.int32)}, text)

    def _answer(self, outputs: Tensors) -> Any | None:
        """The client's response; None behind a stop word."""
        length = int(outputs["sequence_length"][0, 0])
        tokens = outputs["output_ids"][0, 0, :length].tolist()
        passed_on = {name: outputs[name] for name in _PASSED_ON if name in outputs}
        if not self._streaming:
            text = decode_text(tokens, self._decode)
            end = answer_end(text, self._stop_words, start=len(self._prompt))
            return self._response(passed_on, text[:end])
        index = int(outputs["sequence_index"].flat[0]) if "sequence_index" in outputs else 0
        if index in self._stopped:
            return None
        stream = self._streams.setdefault(index, TextStream(self._decode))
        text = self._until_stop(index, stream.push(tokens))
        return self._response(passed_on, self._grown(index, text))

    def _until_stop(self, index: int, text: str) -> str:
        """New text of a sequence up to the end of a stop word, which ends it."""
        end = self._stop_texts.setdefault(index, StopText(self._stop_words)).push(text)
        if end is None:
            return text
        self._stopped.add(index)
        if len(self._stopped) == self._num_sequences:
            self._stop()
        return text[:end]

    def _grown(self, index: int, text: str) -> str:
        if not self._accumulate:
            return text
        self._so_far[index] = self._so_far.get(index, "") + text
        return self._so_far[index]

    def _response(self, passed_on: Tensors, text: str) -> Any:
        own = {
            "text_output": text_tensor([text]),
            "batch_index": np.array([[self._batch_index]], dtype=np.int32),
        }
        return response({**passed_on, **own})


def _renamed(inputs: Inputs, names: Mapping[str, str]) -> list[Any]:
    return [pb_utils.Tensor(names[name], on_wire(values)) for name, values in inputs.items() if name in names]


def _outputs(reply: Any) -> Tensors:
    if reply.has_error():
        error = reply.error()
        if error.code() == pb_utils.TritonError.UNAVAILABLE:
            raise ModelBusy(error.message())
        raise pb_utils.TritonModelException(error.message())
    return {tensor.name(): tensor.as_numpy() for tensor in reply.output_tensors()}
