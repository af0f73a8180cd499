"""Text to text in one model: preprocessing, tensorrt_llm and detokenization, called from Python.

Each prompt of a request is generated on a thread of its own. Unlike the ensemble it passes a client's
cancellation on to tensorrt_llm. Text is decoded here, which is cheaper than a call to postprocessing a token.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from serving.bls import Members, ModelBusy, Texts
from serving.exchange import Exchange
from serving.fields import FieldError, Inputs, field_error, refuse_unsupported
from serving.outcomes import Outcomes
from serving.parameters import Parameters
from serving.relay import SEPARATOR
from serving.requests import WATCH_PERIOD_MS, InFlight, Periodic
from serving.tensors import FINAL, Unavailable, error_response, read_inputs, read_item
from serving.tokenizer import Tokenizer
from serving.turns import Gone, Places

MAX_THREADS = 256
"""Prompts generated at once; more wait for a thread."""


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
        config = json.loads(model_config)
        self._decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        self._places = Places(config["max_batch_size"], max_waiting=parameters.integer("max_queue_size"))
        self._accumulate = parameters.boolean("accumulate_tokens")
        self._tokenizer = Tokenizer(
            parameters.path("tokenizer_dir"),
            skip_special_tokens=parameters.boolean("skip_special_tokens"),
        )
        self._members = Members(
            tensorrt_llm=parameters.text("tensorrt_llm_model_name"), decoupled=self._decoupled
        )
        self._log_error = pb_utils.Logger.log_error
        self._in_flight = InFlight(cancel=self._members.stop)
        self._pool = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="prompt")
        self._periodic = Periodic(
            {
                self._in_flight.cancel_abandoned: parameters.integer("cancellation_check_period_ms"),
                partial(self._in_flight.exit_when_lost, os.getppid()): WATCH_PERIOD_MS,
            },
            log_error=self._log_error,
        )

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._accept(request, sender)
            except FieldError as error:
                self._outcomes.refused()
                sender.send(error_response(str(error)), flags=FINAL)
            except Exception as error:
                # Triton would drop this request, and those after it, without an answer.
                self._log_error(f"a request could not be read: {error!r}")
                self._outcomes.failed()
                message = f"the request could not be read: {type(error).__name__}: {error}"
                sender.send(error_response(message), flags=FINAL)

    def finalize(self) -> None:
        """End the threads."""
        self._periodic.close()
        self._pool.shutdown()

    def _accept(self, request: Any, sender: Any) -> None:
        inputs = read_inputs(request)
        size = int(inputs["text_input"].shape[0])
        if size > 1 and not self._decoupled:
            raise field_error("text_input", f"holds {size} prompts; a batch needs the decoupled mode")
        exchange = Exchange(sender, request.request_id(), num_open=size, timeout_us=request.timeout())
        self._in_flight.add(exchange)
        for index in range(size):
            prompt = Prompt(index, read_item(inputs, index), f"batch item {index}: " if size > 1 else "")
            if (waiting := self._places.enter()) is not None:
                exchange.fail(Unavailable(f"{prompt.prefix}the queue is full: {waiting} requests wait"))
                continue
            try:
                self._pool.submit(self._answer, exchange, prompt)
            except RuntimeError as error:
                # No thread can be started: the exchange must end all the same.
                self._places.leave()
                exchange.fail(f"{prompt.prefix}the prompt could not be begun: {error}")

    def _answer(self, exchange: Exchange, prompt: Prompt) -> None:
        """Generate one prompt; whatever happens, the client is told the end of it."""
        try:
            self._answer_all(exchange, prompt)
        finally:
            self._places.leave()

    def _answer_all(self, exchange: Exchange, prompt: Prompt) -> None:
        """Without streaming the answers are kept, so that the last goes out with the final flag."""
        # Without decoupling there is one response, be it that streaming is refused.
        streaming = prompt.streaming and self._decoupled
        kept: list[Any] = []
        failure = None
        try:
            if exchange.is_cancelled():
                # It has waited for a thread, and its client is gone.
                exchange.fail("the request was cancelled")
                return
            for answer in self._generate(exchange, prompt):
                if streaming:
                    exchange.send(answer)
                else:
                    kept.append(answer)
        except Exception as error:
            if not isinstance(error, FieldError | ModelBusy | Gone | pb_utils.TritonModelException):
                self._log_error(f"prompt {prompt.index}: {error!r}")
                self._outcomes.failed()
            if isinstance(error, FieldError):
                self._outcomes.refused()
            failure = f"{prompt.prefix}{error}"
            if isinstance(error, ModelBusy):
                failure = Unavailable(failure)
        last = kept.pop() if kept and failure is None else None
        for answer in kept:
            exchange.send(answer)
        if failure is None:
            exchange.end(last)
        else:
            exchange.fail(failure)

    def _generate(self, exchange: Exchange, prompt: Prompt) -> Iterable[Any]:
        refuse_unsupported(prompt.inputs)
        # Clients reuse ids: only an id of our own makes sure that cancelling stops no other request.
        request_id = f"{exchange.request_id}{SEPARATOR}{uuid.uuid4().hex}"
        is_gone = partial(self._in_flight.is_gone, exchange)
        prepared = self._members.preprocess(prompt.inputs, request_id=request_id, is_gone=is_gone)
        self._in_flight.attach(exchange, request_id)
        texts = Texts(
            self._tokenizer,
            batch_index=prompt.index,
            streaming=prompt.streaming,
            accumulate=self._accumulate,
            stop_words=prompt.stop_words,
            prompt=prompt.shown,
            num_sequences=prompt.num_sequences,
            stop=partial(self._members.stop, request_id),
        )
        responses = self._members.generate(prompt.inputs, prepared, request_id=request_id, is_gone=is_gone)
        answers: Iterable[Any] = texts.answers(responses)
        return answers


@dataclass(frozen=True)
class Prompt:
    """One item of a request's batch; `prefix` says which, before an error."""

    index: int
    inputs: Inputs
    prefix: str

    @property
    def stop_words(self) -> list[str]:
        """The texts that end an answer; preprocessing has found them to be UTF-8."""
        return [word.decode() for word in self.inputs.get("stop_words", np.array([])).flat]

    @property
    def shown(self) -> str:
        """What a whole answer begins with: the prompt, or nothing where it is excluded."""
        is_excluded = (
            "exclude_input_in_output" in self.inputs and self.inputs["exclude_input_in_output"].any()
        )
        return "" if is_excluded else str(self.inputs["text_input"].flat[0].decode())

    @property
    def num_sequences(self) -> int:
        """How many answers are asked for."""
        asked = self.inputs.get("num_return_sequences")
        return 1 if asked is None else int(asked.flat[0])

    @property
    def streaming(self) -> bool:
        """Whether the client wants the text as it comes."""
        return "stream" in self.inputs and bool(self.inputs["stream"].any())
