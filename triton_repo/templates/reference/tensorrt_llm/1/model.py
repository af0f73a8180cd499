"""Prompt tokens to output tokens: the reference runtime behind upstream's tensorrt_llm tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reference.process import loading, spin_briefly
from serving.answers import Event
from serving.bad_text import BadText
from serving.generating import GeneratingModel, Runtime
from serving.parameters import ParameterError, Parameters
from serving.tokenizer import Tokenizer

# Triton started this process for this model alone; torch, which reads it once, comes with the runtime.
spin_briefly()

with loading():
    from reference import EngineError, RequestError, Sampling, Scheduler


class _Reference:
    """The scheduler, with sampling as plain values; bad words are meant by their text and by their tokens."""

    def __init__(self, scheduler: Scheduler, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.vocab_size, self.end_id = scheduler.vocab_size, scheduler.end_id
        self.cancel, self.counts, self.close = scheduler.cancel, scheduler.counts, scheduler.close
        self._scheduler = scheduler
        self._submit = scheduler.submit

    @property
    def num_steps(self) -> int:
        """Batches that the model has computed."""
        return int(self._scheduler.num_steps)

    def submit(
        self, input_ids: list[int], sampling: dict[str, Any], on_event: Callable[[Event], None]
    ) -> Any:
        words = [self._tokenizer.word_text(word) for word in sampling.get("bad_words", ())]
        banned = BadText(words, self._tokenizer.pieces) if any(words) else None
        return self._submit(input_ids, Sampling(**sampling, banned=banned), on_event)


class TritonPythonModel(GeneratingModel):  # type: ignore[misc]
    """The model's name for Triton."""

    request_error = RequestError
    engine_error = EngineError

    def open_runtime(self, parameters: Parameters, *, max_batch_size: int) -> Runtime:
        if parameters.integer("max_beam_width") != 1:
            raise ParameterError("parameter max_beam_width: the reference runtime has no beam search; use 1")
        scheduler = Scheduler(
            parameters.path("gpt_model_path"),
            executor=parameters.text("executor"),
            device=parameters.text("device"),
            compute_dtype=parameters.text("compute_dtype"),
            max_batch_size=max_batch_size,
            num_threads=parameters.optional_integer("num_threads"),
            on_death=self.end_process,
        )
        return _Reference(scheduler, self._tokenizer)
