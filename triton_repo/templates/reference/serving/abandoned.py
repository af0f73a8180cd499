"""Stops the streams of an ensemble that nobody listens to any more, from postprocessing.

Triton passes the cancellation of an ensemble on to steps that begin after it, not to tensorrt_llm, which is
under way: it would generate to the end. A stream without tensorrt_llm's mark is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from .relay import Mark, abandoned_id

_LOOK_PERIOD_S = 0.25
_MOST_KNOWN = 4096


class Abandoned:
    """Looks now and then whether the requests that pass by are cancelled, and stops those in `model`."""

    def __init__(
        self, *, model: str, log_error: Callable[[str], None], now: Callable[[], float] = time.monotonic
    ) -> None:
        self._model, self._log_error, self._now = model, log_error, now
        self._next: dict[Mark, float] = {}

    def look(self, request: Any, *, mark: Mark) -> None:
        """See to one chunk; asking Triton takes a round trip, so it is not asked for every token."""
        now = self._now()
        if not mark or now < self._next.get(mark, 0.0):
            return
        if len(self._next) >= _MOST_KNOWN:
            self._next = {known: due for known, due in self._next.items() if due > now}
        self._next[mark] = now + _LOOK_PERIOD_S
        if request.is_cancelled():
            self._stop(mark)

    def _stop(self, mark: Mark) -> None:
        one = np.ones((1, 1), dtype=np.int32)
        asked = pb_utils.InferenceRequest(
            model_name=self._model,
            inputs=[
                pb_utils.Tensor("input_ids", one),
                pb_utils.Tensor("input_lengths", one),
                pb_utils.Tensor("request_output_len", one),
                pb_utils.Tensor("stop", np.ones((1, 1), dtype=np.bool_)),
            ],
            requested_output_names=[],
            request_id=abandoned_id(mark),
        )
        for reply in asked.exec(decoupled=True):
            if reply.has_error():
                self._log_error(f"a stream was abandoned, and not stopped: {reply.error().message()}")
