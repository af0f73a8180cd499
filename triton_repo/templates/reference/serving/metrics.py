"""How many requests wait and run, as Triton's custom metrics under upstream's names, and progress.

Gauges are only set while a request is in flight: Triton 2.51 answers a stub that sets one while its model
is unloaded with silence, and the stub then waits for ever, holding Python's lock.
Source of the names: TensorRT-LLM 1.2, triton_backend, "Triton Metrics".
"""

from __future__ import annotations

import threading
import time
from collections import deque

import triton_python_backend_utils as pb_utils

_NUM_ENDS = 64
_DRAIN_UNKNOWN_S = 10.0


class RequestMetrics:
    """The gauges of one model with `num_slots` slots, set at most every `period_ms` while it is busy.

    Setting one is a round trip to the server, so only changed values are set.
    """

    def __init__(self, *, model: str, version: str, num_slots: int, period_ms: int) -> None:
        labels = {"model": model, "version": version}
        progress = pb_utils.MetricFamily(
            name="tpforge_model_progress",
            description="steps of the model and tokens given; it stands still when the model is stuck",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        self._progress_family, self._progress = progress, progress.Metric(labels=labels)
        self._num_events = 0
        self._ends: deque[float] = deque(maxlen=_NUM_ENDS)
        family = pb_utils.MetricFamily(
            name="nv_trt_llm_request_metrics",
            description="TRT LLM request metrics",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        kinds = ("active", "max", "scheduled", "waiting")
        self._family = family
        self._gauges = {kind: family.Metric(labels={**labels, "request_type": kind}) for kind in kinds}
        self._shown: dict[str, int] = {}
        self._num_slots, self._period_s = num_slots, period_ms / 1000
        self._num_open = 0
        self._next_s = 0.0
        self._lock = threading.Lock()
        self._show()

    def opened(self, count: int) -> None:
        """Sequences have been accepted; called before they can end."""
        with self._lock:
            self._num_open += count
            self._show_when_due()

    def closed(self) -> None:
        """A sequence ends; called before its last response is sent."""
        with self._lock:
            self._num_open -= 1
            self._ends.append(time.monotonic())
            if self._num_open == 0:
                self._show()
            else:
                self._show_when_due()

    def drain_s(self, num_waiting: int) -> float:
        """About how long it takes until that many sequences have ended, as fast as the last ones did."""
        with self._lock:
            ends = list(self._ends)
        if len(ends) < 2 or ends[-1] <= ends[0]:
            return _DRAIN_UNKNOWN_S
        return max(1.0, num_waiting * (ends[-1] - ends[0]) / (len(ends) - 1))

    def show_progress(self, num_steps: int) -> None:
        """Show that the model has made that many steps, if a sequence is open."""
        with self._lock:
            if self._num_open:
                self._progress.set(float(num_steps + self._num_events))

    def tick(self) -> None:
        """Show what has changed, if it is time; called while a sequence is open."""
        self._num_events += 1
        if time.monotonic() >= self._next_s:
            with self._lock:
                self._show_when_due()

    def _show_when_due(self) -> None:
        if time.monotonic() >= self._next_s:
            self._show()

    def _show(self) -> None:
        active = min(self._num_open, self._num_slots)
        waiting = self._num_open - active
        values = {"active": active, "max": self._num_slots, "scheduled": active, "waiting": waiting}
        for kind, value in values.items():
            if self._shown.get(kind) != value:
                self._gauges[kind].set(value)
                self._shown[kind] = value
        self._next_s = time.monotonic() + self._period_s
