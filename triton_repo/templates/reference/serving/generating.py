"""Prompt tokens to output tokens behind upstream's tensorrt_llm tensors, whatever runtime generates them.

`execute` only submits; answers are sent from the outbox's thread. It knows no text, but cuts streams at
complete characters, so that postprocessing can decode each chunk by itself.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import triton_python_backend_utils as pb_utils

from .answers import Event, Outbox, Sequence
from .exchange import Exchange
from .fields import FieldError, Inputs, describe, field_error
from .generation import Defaults, Item, batch_size, parse_item
from .metrics import RequestMetrics
from .outcomes import Outcomes
from .parameters import ParameterError, Parameters
from .relay import abandoned_mark, new_mark
from .requests import PROGRESS_PERIOD_MS, WATCH_PERIOD_MS, InFlight, Periodic
from .roll_call import CALL_PERIOD_MS, RollCall
from .stop_text import StopText
from .tensors import FINAL, Unavailable, error_response, gone_response, read_inputs, read_item, response
from .tokenizer import Tokenizer


class Counts(Protocol):
    """How many requests a runtime has."""

    @property
    def waiting(self) -> int:
        """Those that wait for a place."""

    @property
    def free(self) -> int:
        """Places that the first of them get at once."""


class Runtime(Protocol):
    """What generates: tokens in, events out; see the scheduler of the reference runtime."""

    vocab_size: int
    end_id: int | None

    def submit(
        self, input_ids: list[int], sampling: dict[str, Any], on_event: Callable[[Event], None]
    ) -> Any:
        """Begin a request; its events come on another thread. What is given back can be cancelled."""

    def cancel(self, handle: Any) -> None:
        """End a request; its last event comes all the same."""

    def counts(self) -> Counts:
        """How many requests there are."""

    def close(self) -> None:
        """End everything."""


class GeneratingModel:
    """A model of Triton over a runtime; a subclass opens it and names its refusals.

    `request_error` has a `field` and a `message`, and refuses one request; `engine_error` refuses any.
    """

    request_error: type[Exception]
    engine_error: type[Exception]
    offers_perf_metrics = True

    def open_runtime(self, parameters: Parameters, *, max_batch_size: int) -> Runtime:
        """The runtime as config.pbtxt asks for it."""
        raise NotImplementedError

    def initialize(self, args: dict[str, str]) -> None:
        try:
            self._configure(args)
        except (OSError, RuntimeError, ValueError) as error:
            raise pb_utils.TritonModelException(str(error)) from error

    def _configure(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = Parameters(args["model_config"], folder=Path(__file__).parent.parent)
        self._tokenizer = Tokenizer(parameters.path("tokenizer_dir"))
        self._max_queue_size = parameters.integer("max_queue_size")
        self._scheduler = self.open_runtime(parameters, max_batch_size=config["max_batch_size"])
        if self._tokenizer.model_vocab_size > self._scheduler.vocab_size:
            self._scheduler.close()
            raise ParameterError(
                f"parameter tokenizer_dir: the tokenizer has {self._tokenizer.model_vocab_size} tokens, the "
                f"engine's vocabulary {self._scheduler.vocab_size}; it is another model's tokenizer"
            )
        self._defaults = Defaults(
            exclude_input_in_output=parameters.boolean("exclude_input_in_output"),
            decoupled=pb_utils.using_decoupled_model_transaction_policy(config),
            vocab_size=self._scheduler.vocab_size,
            default_end_id=self._scheduler.end_id,
            max_sequences=config["max_batch_size"],
            offers_perf_metrics=self.offers_perf_metrics,
        )
        log_error = pb_utils.Logger.log_error
        self._outcomes = Outcomes(model=args["model_name"], version=args["model_version"])
        self._metrics = RequestMetrics(
            model=args["model_name"],
            version=args["model_version"],
            num_slots=config["max_batch_size"],
            period_ms=parameters.integer("stats_check_period_ms"),
        )
        self._outbox = Outbox(
            metrics=self._metrics,
            outcomes=self._outcomes,
            cancel=self._scheduler.cancel,
            log_error=log_error,
        )
        self._in_flight = InFlight(cancel=self._scheduler.cancel)
        self._roll_call = RollCall(ask=self._outbox.ask)
        self._periodic = Periodic(
            {
                self._show_progress: PROGRESS_PERIOD_MS,
                self._in_flight.cancel_abandoned: parameters.integer("cancellation_check_period_ms"),
                self._roll_call.call: CALL_PERIOD_MS,
                partial(self._in_flight.exit_when_lost, os.getppid()): WATCH_PERIOD_MS,
            },
            log_error=log_error,
        )

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                if sender.is_cancelled():
                    sender.send(gone_response(), flags=FINAL)
                else:
                    self._accept(request, sender)
            except FieldError as error:
                self._outcomes.refused()
                sender.send(error_response(str(error)), flags=FINAL)
            except Exception as error:
                # Triton would drop this request, and those after it, without an answer.
                pb_utils.Logger.log_error(traceback.format_exc())
                self._outcomes.failed()
                sender.send(error_response(_unreadable(error)), flags=FINAL)

    def _show_progress(self) -> None:
        self._metrics.show_progress(getattr(self._scheduler, "num_steps", 0))

    def end_process(self, error: BaseException) -> None:
        """End this process, since nothing generates in it any more: its supervisor starts it again.

        The answers that are queued are sent first.
        """
        pb_utils.Logger.log_error("".join(traceback.format_exception(error)))
        if hasattr(self, "_outbox"):
            self._outbox.close()
        os._exit(1)

    def finalize(self) -> None:
        """Fail what is in flight, tell its clients, and end the ranks."""
        self._periodic.close()
        self._scheduler.close()
        self._outbox.close()

    def _accept(self, request: Any, sender: Any) -> None:
        """Submit every sequence of a request, or stop the request that it names."""
        arrival_ns = time.monotonic_ns()
        inputs = read_inputs(request)
        if "stop" in inputs and inputs["stop"].any():
            self._stop(request.request_id(), sender)
            return
        size = batch_size(inputs)
        if size > 1 and not self._defaults.decoupled:
            raise field_error("input_ids", f"holds {size} prompts; a batch needs the decoupled mode")
        items = [self._parse(inputs, index, size) for index in range(size)]
        counts = [1 if isinstance(item, FieldError) else item.num_return_sequences for item in items]
        exchange = Exchange(
            sender,
            request.request_id(),
            num_open=sum(counts),
            timeout_us=request.timeout(),
            mark=new_mark(inputs, request_id=request.request_id()),
        )
        self._metrics.opened(sum(counts))
        self._in_flight.add(exchange)
        for index, item in enumerate(items):
            if isinstance(item, FieldError):
                self._outcomes.refused()
                self._outbox.refuse(exchange, str(item))
                continue
            for number in range(item.num_return_sequences):
                words = item.sampling.get("stop_words", ())
                stop = StopText([self._tokenizer.word_text(word) for word in words])
                sequence = Sequence(exchange, item, index, number, self._tokenizer, arrival_ns, stop)
                self._submit(sequence, prefix=f"batch item {index}: " if size > 1 else "")

    def _parse(self, inputs: Inputs, index: int, size: int) -> Item | FieldError:
        """An item of a batch, or why it is refused: the other items are answered all the same."""
        try:
            return parse_item(read_item(inputs, index), defaults=self._defaults)
        except FieldError as error:
            return error if size == 1 else FieldError(f"batch item {index}: {error}")

    def _submit(self, sequence: Sequence, *, prefix: str) -> None:
        item, exchange = sequence.item, sequence.exchange
        counts = self._scheduler.counts()
        waiting = counts.waiting - counts.free
        if 0 < self._max_queue_size <= waiting:
            # Upstream's words, by which its own tools/inflight_batcher_llm/test_max_queue_size.py knows them.
            full = f"Maximum queue size of {self._max_queue_size} has been reached: {waiting} requests wait"
            again = f"try again in about {self._metrics.drain_s(waiting):.0f} s"
            self._outbox.refuse(exchange, Unavailable(f"{prefix}{full}; {again}"))
            return
        try:
            handle = self._scheduler.submit(
                item.input_ids,
                item.sampling_of(sequence.sequence_index),
                partial(self._outbox.put, sequence),
            )
        except self.request_error as error:
            self._outcomes.refused()
            described = describe(getattr(error, "field", ""), getattr(error, "message", str(error)))
            self._outbox.refuse(exchange, prefix + described)
        except self.engine_error as error:
            self._outcomes.failed()
            self._outbox.refuse(exchange, prefix + str(error))
        except Exception as error:
            # The request has an exchange by now, which must end.
            pb_utils.Logger.log_error(traceback.format_exc())
            self._outcomes.failed()
            self._outbox.refuse(exchange, prefix + _unreadable(error))
        else:
            self._in_flight.attach(exchange, handle)
            self._roll_call.add(sequence)
            sequence.handle = handle
            if sequence.stopped:
                # A stop word came before the handle was known.
                self._scheduler.cancel(handle)

    def _stop(self, request_id: str, sender: Any) -> None:
        if not request_id:
            raise field_error("stop", "the request has no id; give it the id of the request to be stopped")
        mark = abandoned_mark(request_id)
        if mark:
            if self._in_flight.stop_abandoned(mark):
                self._roll_call.found()
        else:
            self._in_flight.stop(request_id)
        sender.send(response({}), flags=FINAL)


def _unreadable(error: Exception) -> str:
    return f"the request could not be read: {type(error).__name__}: {error}"
