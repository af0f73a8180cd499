"""Text to text by TensorRT-LLM's LLM API, with the tensors of upstream's llmapi model.

model.yaml beside it holds the LLM API's arguments. tensorrt_llm is imported when the model is loaded, since
it takes hold of the GPUs. Streams carry the text so far, as upstream's do.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import triton_python_backend_utils as pb_utils
import yaml
from llm_metrics import perf_metrics
from llm_requests import Asked, RequestRefused, asks_to_stop, read_request
from llm_stats import Follower, LlmModelStats

_JOIN_TIMEOUT_S = 30


class Cancelled(Exception):
    """The answer to a request that ended another one."""


class TritonPythonModel:
    """The model's name for Triton."""

    def initialize(self, args: dict[str, str]) -> None:
        config = yaml.safe_load((Path(__file__).parent / "model.yaml").read_text(encoding="utf-8"))
        triton = config.pop("triton_config")
        self._decoupled = bool(triton["decoupled"])
        self._exclude_input = bool(triton["exclude_input_from_output"])
        self._period_s = int(triton["cancellation_check_period_ms"]) / 1000
        from tensorrt_llm import LLM, SamplingParams

        self._sampling_params = SamplingParams
        self._running: dict[str, list[Any]] = {}
        self._stats = LlmModelStats(model=args["model_name"], version=args["model_version"])
        self._tells = bool(config.get("enable_iter_perf_stats"))
        self._follower = Follower(self._stats.iteration, log_error=pb_utils.Logger.log_error)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="llm", daemon=True)
        self._thread.start()
        try:
            self._llm = LLM(**config)
        except Exception as error:
            # Whatever keeps the engine from loading must end the load, not the stub.
            self._end_loop()
            raise pb_utils.TritonModelException(f"the LLM API refused model.yaml: {error}") from error

    def execute(self, requests: list[Any]) -> list[Any] | None:
        if self._decoupled:
            for request in requests:
                sender = request.get_response_sender()
                asyncio.run_coroutine_threadsafe(self._stream(request, sender), self._loop)
            return None
        answers = [asyncio.run_coroutine_threadsafe(self._whole(one), self._loop) for one in requests]
        return [answer.result() for answer in answers]

    def finalize(self) -> None:
        """Stop the engine."""
        asyncio.run_coroutine_threadsafe(self._follower.end(), self._loop).result(_JOIN_TIMEOUT_S)
        self._llm.shutdown()
        self._end_loop()

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_JOIN_TIMEOUT_S)
        if not self._thread.is_alive():
            self._loop.close()

    async def _stream(self, request: Any, sender: Any) -> None:
        """Answer a request as it is generated; the end is always told."""
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        try:
            async with self._generation(request, sender.is_cancelled) as (asked, output):
                if asked.streaming:
                    async for piece in output:
                        sender.send(_response(asked, piece))
                else:
                    sender.send(_response(asked, await output.aresult()))
        except Exception as error:
            # A request that fails must not take the loop with it.
            self._count(error)
            sender.send(_error(error), flags=final)
        else:
            sender.send(flags=final)

    async def _whole(self, request: Any) -> Any:
        try:
            async with self._generation(request, request.is_cancelled) as (asked, output):
                return _response(asked, await output.aresult())
        except Exception as error:
            self._count(error)
            return _error(error)

    def _count(self, error: Exception) -> None:
        if isinstance(error, RequestRefused):
            self._stats.refused()
        elif not isinstance(error, Cancelled):
            self._stats.failed()

    @asynccontextmanager
    async def _generation(self, request: Any, is_cancelled: Any) -> AsyncIterator[tuple[Asked, Any]]:
        """What a request asks for, and its output: watched, and known by its id until it is left."""
        request_id = request.request_id()
        if asks_to_stop(_tensors_of(request)):
            self._stop(request_id)
        asked = self._read(request)
        output = self._submit(asked, request_id)
        watch = asyncio.ensure_future(self._watch(is_cancelled, output))
        self._stats.opened(asked.num_sequences)
        if self._tells:
            self._follower.begin(self._llm)
        try:
            yield asked, output
        finally:
            watch.cancel()
            self._forget(request_id, output)
            self._stats.closed(
                asked.num_sequences,
                num_input_tokens=len(output.prompt_token_ids),
                num_output_tokens=sum(len(answer.token_ids) for answer in output.outputs),
            )

    async def _watch(self, is_cancelled: Any, output: Any) -> None:
        """Abort the generation when the client has gone."""
        while True:
            await asyncio.sleep(self._period_s)
            if is_cancelled():
                output.abort()
                return

    def _read(self, request: Any) -> Asked:
        tensor = _tensors_of(request)
        return read_request(tensor, decoupled=self._decoupled, exclude_input=self._exclude_input)

    def _submit(self, asked: Asked, request_id: str) -> Any:
        params = self._sampling_params(**asked.sampling)
        output = self._llm.generate_async(asked.text, params, streaming=asked.streaming)
        if request_id:
            self._running.setdefault(request_id, []).append(output)
        return output

    def _forget(self, request_id: str, output: Any) -> None:
        left = [one for one in self._running.pop(request_id, []) if one is not output]
        if left:
            self._running[request_id] = left

    def _stop(self, request_id: str) -> NoReturn:
        """End the requests of an id; what is answered is upstream's."""
        if not request_id:
            raise RequestRefused("A request id must be provided for request cancellation")
        for output in self._running.get(request_id, []):
            output.abort()
        raise Cancelled("Request cancelled by client")


def _tensors_of(request: Any) -> Callable[[str], Any]:
    def tensor(name: str) -> Any:
        found = pb_utils.get_input_tensor_by_name(request, name)
        return None if found is None else found.as_numpy()

    return tensor


def _response(asked: Asked, output: Any) -> Any:
    """The tensors of what has been generated so far; those that were not asked for are left out."""
    answers = output.outputs
    head = "" if asked.exclude_input else asked.text
    tensors = [_strings("text_output", [head + answer.text for answer in answers])]
    for name in asked.returned:
        values = [getattr(answer, name) for answer in answers]
        if name == "cumulative_logprob":
            numbers = np.array([value or 0.0 for value in values], dtype=np.float32)
            tensors.append(pb_utils.Tensor(name, numbers))
        else:
            tensors.append(_strings(name, ["" if value is None else str(value) for value in values]))
    if asked.perf_metrics and answers:
        values = perf_metrics(answers[0])
        tensors += [pb_utils.Tensor(name, array) for name, array in values.items()]
    return pb_utils.InferenceResponse(output_tensors=tensors)


def _strings(name: str, values: list[str]) -> Any:
    return pb_utils.Tensor(name, np.array([value.encode() for value in values], dtype=np.object_))


def _error(error: Exception) -> Any:
    if isinstance(error, Cancelled):
        cancelled = pb_utils.TritonError(str(error), pb_utils.TritonError.CANCELLED)
        return pb_utils.InferenceResponse(output_tensors=[], error=cancelled)
    kind = "" if isinstance(error, RequestRefused) else f"{type(error).__name__}: "
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(f"{kind}{error}"))
