"""A plan as JSON: the record that `tpforge plan --json` prints, and that is read again from a file.

It computes nothing; see docs/planning.md for what the values mean.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from tpforge.errors import InputRefused
from tpforge.outputs.atomic import os_errors
from tpforge.plan.choice.choose import Plan
from tpforge.plan.memory.rank import RankMemory
from tpforge.plan.options.option import Option
from tpforge.plan.options.percentiles import Wait
from tpforge.records import Record
from tpforge.shards.weights import Basis

_BESIDE = ("schema_version", "kind", "disaggregated", "second_opinion")
"""What `tpforge plan --json` prints beside the plan itself: the last two only where they are asked for."""


class LineRecord(Record):
    """One line of a rank's memory, in bytes."""

    name: str
    bytes: int
    basis: Basis
    formula: str
    source: str


class MemoryRecord(Record):
    """The fullest rank; `kv_cache_tokens` counts the tokens of all requests together."""

    total_bytes: int
    total_is_published: bool
    lines: list[LineRecord]
    free_bytes: int
    kv_cache_bytes: int
    kv_cache_tokens: int
    kv_bytes_per_token: int
    max_requests: int
    longest_request: int


class SpeedRecord(Record):
    """Estimates of all replicas together, but for `batch`, `ttft_ms` and `tpot_ms`, which are of one.

    `requests` run at once, no more than a stated number; tokens/s are no more than a stated rate asks for.
    `most_requests_per_second` is what is borne at most, however slowly, where a rate is stated.

    8 of 10 measurements of groups held out lay between `low` and `high` tokens/s; `band_rows` is how many
    rows there were, 0 for an assumed band. `ttft_*` and `tpot_*` are the same of the times.
    """

    tokens_per_second: float
    low: float
    high: float
    band_kind: str
    band_rows: int
    tokens_per_second_per_gpu: float
    requests: int | None = None
    most_requests_per_second: float | None = None
    batch: int
    batch_limit: str
    ttft_ms: float
    ttft_low_ms: float
    ttft_high_ms: float
    tpot_ms: float
    tpot_low_ms: float
    tpot_high_ms: float
    communication_share: float
    cost_per_million: float | None


class OptionRecord(Record):
    """One way to deploy; `rejected_for` and `reason` say why it does not work."""

    model: str
    label: str
    tp: int
    pp: int
    moe_ep: int
    attention_dp: bool = False
    replicas: int
    gpus: int
    weights: str
    kv_cache: str
    works: bool
    rejected_for: str | None
    reason: str | None
    notes: list[str]
    memory: MemoryRecord | None
    speed: SpeedRecord | None


class WaitRecord(Record):
    """Milliseconds of a mean request, of the middle one, and of the one that 19 of 20 are faster than."""

    mean_ms: float
    p50_ms: float
    p95_ms: float


class SimulatedRecord(Record):
    """What the requests of one replica of the chosen option waited in a simulation of its scheduler."""

    requests: int
    ttft: WaitRecord
    tpot: WaitRecord


class FrontierRecord(Record):
    """A point that no option and batch beats in both rates; `batch` requests run at once a replica."""

    label: str
    batch: int
    tokens_per_second_per_user: float
    tokens_per_second_per_gpu: float
    ttft_ms: float


class AdviceRecord(Record):
    """What one rule says."""

    rule: str
    level: Literal["note", "warning"]
    text: str


class NeedsRecord(Record):
    """What making one engine takes of the host; `memory_bytes` None: tensors are streamed one by one."""

    source_bytes: int
    rank_files_bytes: int
    engine_bytes: int
    memory_bytes: int | None


class PlanRecord(Record):
    """The whole plan; `options` holds those that work, the best first, then the rejected ones.

    Without a stated load or limit, `frontier` has what each speed of a user costs.
    `undecided` are options within the band of the chosen one.
    """

    model: str
    architecture: str
    gpu: str
    num_gpus: int
    link: str
    input_tokens: int
    output_tokens: int
    concurrency: int | None
    requests_per_second: float | None = None
    prefix_hit: float = 0.0
    draft_tokens: int = 0
    acceptance: float = 0.0
    ttft_limit_ms: float | None = None
    tpot_limit_ms: float | None = None
    max_len: int
    goal: str
    runtime: str
    chosen: OptionRecord
    host_needs: NeedsRecord
    alternatives: list[OptionRecord]
    advice: list[AdviceRecord]
    options: list[OptionRecord]
    undecided: list[str] = Field(default_factory=list)
    simulated: SimulatedRecord | None = None
    currency: str = ""
    frontier: list[FrontierRecord] = Field(default_factory=list)


def plan_record(plan: Plan) -> PlanRecord:
    """The record of `plan`."""
    ask = plan.ask
    return PlanRecord(
        model=plan.blueprint.name,
        architecture=plan.blueprint.model.architecture,
        gpu=plan.cluster.gpu.name,
        num_gpus=plan.cluster.num_gpus,
        link=plan.cluster.link,
        input_tokens=ask.load.input_tokens,
        output_tokens=ask.load.output_tokens,
        concurrency=ask.load.concurrency,
        requests_per_second=ask.load.requests_per_second,
        prefix_hit=ask.load.prefix_hit,
        draft_tokens=ask.load.drafts.num_tokens,
        acceptance=ask.load.drafts.acceptance,
        ttft_limit_ms=ask.ttft_ms,
        tpot_limit_ms=ask.tpot_ms,
        max_len=ask.max_len,
        goal=plan.goal,
        runtime=ask.runtime,
        chosen=option_record(plan.chosen, plan),
        host_needs=NeedsRecord(
            source_bytes=plan.needs.source_bytes,
            rank_files_bytes=plan.needs.rank_files_bytes,
            engine_bytes=plan.needs.engine_bytes,
            memory_bytes=plan.needs.memory_bytes,
        ),
        alternatives=[option_record(one, plan) for one in plan.instead],
        advice=[AdviceRecord(rule=one.rule, level=one.level, text=one.text) for one in plan.advice],
        options=[option_record(one, plan) for one in (*plan.working, *plan.rejected)],
        undecided=[one.label for one in plan.undecided],
        currency=ask.currency,
        simulated=SimulatedRecord(
            requests=plan.simulated.num_requests,
            ttft=_wait(plan.simulated.ttft),
            tpot=_wait(plan.simulated.tpot),
        ),
        frontier=[
            FrontierRecord(
                label=one.option.label,
                batch=one.batch,
                tokens_per_second_per_user=round(one.user, 1),
                tokens_per_second_per_gpu=round(one.gpu, 1),
                ttft_ms=round(one.ttft_ms, 1),
            )
            for one in plan.frontier
        ],
    )


def option_record(option: Option, plan: Plan) -> OptionRecord:
    """The record of one option."""
    return OptionRecord(
        model=option.model,
        label=option.label,
        tp=option.mapping.tp_size,
        pp=option.mapping.pp_size,
        moe_ep=option.mapping.moe_ep_size,
        attention_dp=option.attention_dp,
        replicas=option.replicas,
        gpus=option.num_gpus,
        weights=option.precision,
        kv_cache=option.kv_dtype,
        works=option.rejection is None,
        rejected_for=option.rejection.cause if option.rejection else None,
        reason=option.rejection.reason if option.rejection else None,
        notes=list(option.notes),
        memory=_memory(option.memory, plan) if option.memory else None,
        speed=_speed(option),
    )


def _wait(wait: Wait) -> WaitRecord:
    return WaitRecord(
        mean_ms=round(wait.mean_ms, 2), p50_ms=round(wait.p50_ms, 2), p95_ms=round(wait.p95_ms, 2)
    )


def _memory(memory: RankMemory, plan: Plan) -> MemoryRecord:
    return MemoryRecord(
        total_bytes=memory.gpu.memory_bytes,
        total_is_published=memory.gpu.memory_is_published,
        lines=[
            LineRecord(
                name=line.name,
                bytes=line.num_bytes,
                basis=line.basis,
                formula=line.formula,
                source=line.source,
            )
            for line in memory.lines
        ],
        free_bytes=memory.free_bytes,
        kv_cache_bytes=memory.kv_bytes,
        kv_cache_tokens=memory.kv_tokens,
        kv_bytes_per_token=memory.layout.bytes_per_token,
        max_requests=memory.max_requests(plan.ask.load.request_tokens),
        longest_request=memory.longest_request(plan.blueprint.model.max_position_embeddings),
    )


def _speed(option: Option) -> SpeedRecord | None:
    speed, band, first, later = option.speed, option.band, option.ttft_band, option.tpot_band
    if speed is None or band is None or first is None or later is None:
        return None
    ttft, tpot = speed.ttft_ms / option.scale, speed.tpot_ms / option.scale
    tokens, (low, high) = option.tokens_per_second, option.tokens_between
    return SpeedRecord(
        tokens_per_second=round(tokens, 1),
        low=round(low, 1),
        high=round(high, 1),
        band_kind=band.kind,
        band_rows=band.rows,
        tokens_per_second_per_gpu=round(option.tokens_per_gpu, 1),
        requests=option.num_running,
        most_requests_per_second=None if option.most_per_second is None else round(option.most_per_second, 4),
        batch=speed.batch,
        batch_limit=speed.limit,
        ttft_ms=round(ttft, 1),
        ttft_low_ms=round(ttft * first.low, 1),
        ttft_high_ms=round(ttft * first.high, 1),
        tpot_ms=round(tpot, 2),
        tpot_low_ms=round(tpot * later.low, 2),
        tpot_high_ms=round(tpot * later.high, 2),
        communication_share=round(speed.communication_share, 4),
        cost_per_million=option.cost_per_million,
    )


def plan_of(value: Mapping[str, object]) -> PlanRecord:
    """The plan in what `tpforge plan --json` printed.

    Raises:
        ValueError: it is no plan of this version.
    """
    return PlanRecord.model_validate({key: item for key, item in value.items() if key not in _BESIDE})


def read_plan(path: Path) -> PlanRecord:
    """The plan that `tpforge plan --json` printed.

    Raises:
        InputRefused: the file is missing or is no plan of this version.
    """
    if not path.is_file():
        raise InputRefused(
            f"{path}: no such file; make one with: tpforge plan MODEL --gpu NAME --json > {path}"
        )
    with os_errors(path):
        text = path.read_text("utf-8")
    try:
        return plan_of(json.loads(text))
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputRefused(f"{path}: is not what tpforge plan --json prints: {error}") from error
