"""What one request showed, and what many of them amount to: samples, intervals, summaries.

The records alone. `statistics` computes with numbers, `metrics` makes summaries of samples, `run` keeps both.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from tpforge.records import Record

ErrorKind = Literal["refused", "timeout", "unreachable", "broken", "incomplete", "malformed", "cancelled"]
"""Why a request gave no whole answer.

refused: the server answered with an error. timeout: no whole answer within the deadline. unreachable: no
connection, nothing was answered. broken: the connection was lost after the request was sent.
incomplete: the stream ended without its final response, or an OpenAI one without any token. malformed: a
response was not what the protocol says. cancelled: this client gave up, as the run was interrupted or over.
"""


Phase = Literal["warmup", "measured"]
Statistic = Literal["avg", "min", "max", "std", "p1", "p5", "p10", "p25", "p50", "p75", "p90", "p95", "p99"]


class Sample(Record):
    """One request, from when it was to be sent to when it was over.

    All ``*_s`` are seconds of the monotonic clock since its repeat began (see `run.Repeat.started`), None
    when it did not come to that. Latencies count from `scheduled_s`, which is when an open loop's schedule
    wanted it sent, and when a closed loop's slot was free; `sent_s` is when it was handed to the connection.

    `token_times_s` holds the arrival of every response that carried text or tokens, each stamped as it came
    off the stream; `first_token_s` and `last_s` are the first and the last of them. A whole answer may hold
    no token, when the model ends at once: `last_s` is then its end. `ended_s` is when the stream was over,
    well or not. `tokens_per_response` has one count for each of `token_times_s` where
    the server says how many tokens a response held, else it is empty: then a response is one token.

    `input_tokens` and `output_tokens` are counted by the model's own tokenizer, or the server where it
    tells (`token_source` of the workload says which); None when neither is known. `expected_output_tokens`
    is what was asked for. `finish_reason` is the server's word (``stop``, ``length``), or ``length`` where
    the answer has exactly the tokens asked for and the server does not tell.

    `level` and `repeat` number the part of the run it belongs to, from 0; `index` counts the requests of
    that repeat, warmup included. `error` is the message that belongs to `error_kind`, verbatim.
    """

    level: Annotated[int, Field(ge=0)]
    repeat: Annotated[int, Field(ge=0)]
    index: Annotated[int, Field(ge=0)]
    phase: Phase = "measured"
    prompt_id: str
    scheduled_s: float
    sent_s: float | None = None
    first_token_s: float | None = None
    token_times_s: tuple[float, ...] = ()
    tokens_per_response: tuple[int, ...] = ()
    last_s: float | None = None
    ended_s: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    expected_output_tokens: int | None = None
    finish_reason: str | None = None
    error_kind: ErrorKind | None = None
    error: str | None = None
    output_text: str = ""

    @property
    def is_complete(self) -> bool:
        """Whether it has a whole answer; only these enter latency metrics."""
        return self.error_kind is None


class Interval(Record):
    """A value of `n` repeats, or a share of `n` trials, and where the true one lies with `confidence`."""

    mean: float
    low: float
    high: float
    n: int
    confidence: float = 0.95


class MetricSummary(Record):
    """One metric of one level: its distribution over requests, and how it varies between repeats.

    `name` and `unit` are AIPerf's (``time_to_first_token``, ``ms``). A "record" metric has a value a
    request: the statistics are over the pooled requests of all repeats, `count` is their number. A "derived"
    metric has one value a repeat (a rate, a count): `avg` is their mean, or the pooled share, the percentiles
    are None. A percentile is None too where there are too few requests to tell it. In a metric ``adj_...`` a
    failed request counts as infinite, so that its percentiles may be.

    `repeats` has, per statistic (``avg``, ``p50``, ``p90``, ``p95``, ``p99``; of a derived metric only
    ``avg``), its value in every repeat that has one. `intervals` has an interval around the statistic itself
    for each of these, where there are at least two repeats, and of a share always; without it a difference
    can not be told from chance.
    """

    # JSON knows no infinity: it is written as the text that pydantic reads back.
    model_config = ConfigDict(ser_json_inf_nan="strings", allow_inf_nan=True)

    name: str
    unit: str
    kind: Literal["record", "derived"]
    avg: float
    min: float | None = None
    max: float | None = None
    std: float | None = None
    sum: float | None = None
    count: int | None = None
    p1: float | None = None
    p5: float | None = None
    p10: float | None = None
    p25: float | None = None
    p50: float | None = None
    p75: float | None = None
    p90: float | None = None
    p95: float | None = None
    p99: float | None = None
    repeats: dict[Statistic, tuple[float, ...]] = Field(default_factory=dict)
    intervals: dict[Statistic, Interval] = Field(default_factory=dict)

    @property
    def interval(self) -> Interval | None:
        """The interval of the mean; None with a single repeat."""
        return self.intervals.get("avg")
