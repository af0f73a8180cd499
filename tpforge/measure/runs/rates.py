"""What a server gave in the window of one repeat: tokens and requests a second, and how many failed.

It knows nothing of several repeats; `metrics` puts them together, `window` says what belongs to a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tpforge.measure.runs.latencies import is_good
from tpforge.measure.runs.run import Repeat, Slo
from tpforge.measure.runs.samples import Sample
from tpforge.measure.runs.window import Part, counts_tokens, overlaps, part_in_window

RATES = (
    ("output_token_throughput", "tokens/sec"),
    ("total_token_throughput", "tokens/sec"),
    ("request_throughput", "requests/sec"),
    ("goodput", "requests/sec"),
    ("request_count", "requests"),
    ("error_request_count", "requests"),
    ("benchmark_duration", "sec"),
)
"""Name and unit of what has one value a repeat."""

SHARES = (("good_request_fraction", "ratio", 1.0), ("request_error_rate", "%", 100.0))
"""Name, unit and scale of what is a share of the requests that began in the window."""


@dataclass(frozen=True)
class RepeatRates:
    """The samples of one repeat, the warmup's too, with its window.

    A request that failed gave nothing, whatever tokens of it came, as AIPerf counts; one that this client
    broke off gave what had come of it.
    """

    samples: Sequence[Sample]
    repeat: Repeat
    slo: Slo | None = None

    @property
    def measured(self) -> list[Sample]:
        """The requests that began in the window."""
        return [sample for sample in self.samples if sample.phase == "measured"]

    def rates(self) -> dict[str, float]:
        """By the names of RATES: those that are defined for these samples."""
        repeat, measured = self.repeat, self.measured
        num_failed = sum(not sample.is_complete for sample in measured)
        rates: dict[str, float] = {
            "request_count": len(measured) - num_failed,
            "error_request_count": num_failed,
            "benchmark_duration": repeat.duration_s,
        }
        if repeat.duration_s <= 0:
            return rates
        complete = [sample for sample in self.samples if sample.is_complete]
        amounts = {"request_throughput": self._requests(complete)}
        if self.slo is not None:
            amounts["goodput"] = self._requests([one for one in complete if is_good(one, self.slo)])
        outputs, inputs = self._tokens("output_tokens"), self._tokens("input_tokens")
        if outputs is not None:
            amounts["output_token_throughput"] = outputs
            if inputs is not None:
                amounts["total_token_throughput"] = inputs + outputs
        return rates | {name: amount / repeat.duration_s for name, amount in amounts.items()}

    def shares(self) -> dict[str, tuple[int, int]]:
        """By the names of SHARES: how many requests of how many."""
        measured = self.measured
        failed = sum(not sample.is_complete for sample in measured)
        shares = {"request_error_rate": (failed, len(measured))}
        if self.slo is not None:
            good = sum(is_good(sample, self.slo) for sample in measured)
            shares["good_request_fraction"] = (good, len(measured))
        return shares

    def _requests(self, samples: Sequence[Sample]) -> float:
        return sum(part_in_window(sample, self.repeat, "requests") for sample in samples)

    def _tokens(self, field: Literal["output_tokens", "input_tokens"]) -> float | None:
        """The tokens within the window; None where a request in it does not tell how many it has."""
        part: Part = "output" if field == "output_tokens" else "input"
        total = 0.0
        for sample in self.samples:
            if not counts_tokens(sample) or not overlaps(sample, self.repeat):
                continue
            count = getattr(sample, field)
            if count is None:
                return None
            total += count * part_in_window(sample, self.repeat, part)
        return total
