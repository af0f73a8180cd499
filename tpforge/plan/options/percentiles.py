"""What users of a load wait for tokens, as mean, p50 and p95: its requests served by a simulated server.

It schedules nothing (`simulation`) and ranks nothing: options are ranked by estimates of a mean request.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from tpforge.measure.statistics import percentiles
from tpforge.plan.options.operating import above
from tpforge.plan.options.option import Ask, Option, Rejection
from tpforge.plan.speed.calibration import Fit
from tpforge.plan.speed.load import Load, Tokens
from tpforge.plan.speed.simulation import Request, Server, serve_as_they_come, serve_at_once
from tpforge.plan.speed.throughput import StepModel

REQUESTS = 400
"""First tokens that are waited for: 20 of them are beyond p95."""
SPREAD = 0.2
"""Answers are between 1 - SPREAD and 1 + SPREAD of the mean: equal ones would all end in one step."""
MOST_REQUESTS = 4000
"""Of a trace: the first so many."""
_SEED = 19


@dataclass(frozen=True)
class Wait:
    """Milliseconds: of a mean request, of the middle one, of the one that 19 of 20 are faster than."""

    mean_ms: float
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Simulated:
    """Of one replica: the waits for the first token and for a later one, of so many requests."""

    num_requests: int
    ttft: Wait
    tpot: Wait


def simulate_option(option: Option, ask: Ask, *, fit: Fit) -> Simulated:
    """One replica under its share of what is asked; of a trace all, which get its requests in turn."""
    assert option.engine is not None and option.speed is not None
    model, load = StepModel(option.engine, fit), ask.load
    if ask.requests and load.requests_per_second is not None:
        requests, replicas = ask.requests[:MOST_REQUESTS], option.replicas
        shares = [requests[index::replicas] for index in range(min(replicas, len(requests)))]
        return simulate_requests(model, shares, load=load, busy=option.speed.batch, scale=option.scale)
    rate, concurrency = load.requests_per_second, load.concurrency
    share_of_load = replace(
        load,
        requests_per_second=None if rate is None else rate / option.replicas,
        concurrency=None if concurrency is None else -(-concurrency // option.replicas),
    )
    return simulate(model, share_of_load, busy=option.speed.batch, scale=option.scale)


def late_rejection(ask: Ask, simulated: Simulated) -> Rejection | None:
    """Why an option does not work whose mean request alone did: random arrivals queue.

    None where requests come as others end, which is what the estimates of a mean request are for.
    """
    if not ask.limits_waits:
        return None
    limits = (
        (ask.ttft_ms, simulated.ttft.mean_ms, "to the first token"),
        (ask.tpot_ms, simulated.tpot.mean_ms, "a token"),
    )
    for limit, found, what in limits:
        if limit is not None and found > limit:
            how = "of the trace" if ask.requests else "that come at random times"
            return Rejection(
                "latency",
                f"{above(found, limit)} ms {what} in the mean of requests {how}, more than {limit:g}",
            )
    return None


def simulate(model: StepModel, load: Load, *, busy: int, scale: float = 1.0) -> Simulated:
    """Of a server that goes on as it was, `busy` requests amid their answers.

    Requests of `load` come at its rate, each at a random time (Poisson), or, without one, as others end.
    """
    server = Server(model, load=load, scale=scale * _evenness(model, load, busy=busy))
    chance = random.Random(_SEED)
    server.begin(list(_amid(load, busy, chance)))
    coming = _requests(load, chance)
    beside_s = _beside(model, load, busy=busy) / scale
    if load.requests_per_second is not None:
        waited = serve_as_they_come(server, coming, enough=REQUESTS)
        return _summarized(waited.first_s, waited.token_s, beside_s)
    line = max(0, (load.concurrency or busy) - busy)
    held = min(line, REQUESTS)
    waited = serve_at_once(server, coming, number=held, enough=held + REQUESTS)
    # The first ones found a shorter line; of a longer one than is held, the rest go ahead as fast as these.
    first_s = waited.first_s[held:]
    rest_s = (line - held) / held * sum(first_s) / len(first_s) if held else 0.0
    return _summarized(first_s, waited.token_s, beside_s + rest_s)


def simulate_requests(
    model: StepModel, shares: Sequence[Sequence[Request]], *, load: Load, busy: int, scale: float
) -> Simulated:
    """Of the requests of a trace as they come, a share for each replica that is idle before.

    `load` is their mean, of which `busy` would be answered at once.
    """
    speed = scale * _evenness(model, load, busy=busy)
    first: list[float] = []
    tokens: list[float] = []
    for share in shares:
        server = Server(model, load=load, scale=speed)
        coming = iter(sorted(share, key=lambda one: one.at_s))
        waited = serve_as_they_come(server, coming, enough=len(share))
        beside_s = _beside(model, load, busy=busy) / scale
        first += [beside_s + one for one in waited.first_s]
        tokens += waited.token_s
    return Simulated(len(first), _wait(first), _wait(tokens or [0.0]))


def _evenness(model: StepModel, load: Load, *, busy: int) -> float:
    """How much longer steps take with whole prompts in some of them than with prompts spread evenly over all.

    Published throughput was fitted with even steps: divided by this, uneven ones take as long in the mean.
    """
    even = model.step(busy, load)
    between = max(1.0, load.output_tokens / load.drafts.tokens_per_step / busy)
    prompts = max(1.0, busy * load.drafts.tokens_per_step / load.output_tokens)
    context = load.input_tokens + load.output_tokens / 2
    answers = Tokens(busy, context, queries=1 + load.drafts.num_tokens)
    mixed = answers._replace(
        prompt=prompts * load.read_tokens,
        seen=load.input_tokens - load.read_tokens / 2,
        prompts=prompts,
    )
    alone, read = (model.time(one, drafts=load.drafts).total for one in (answers, mixed))
    return ((between - 1) * alone + read) / (between * even.total)


def _beside(model: StepModel, load: Load, *, busy: int) -> float:
    """Seconds a measured server's first token takes beside the steps of the scheduler; see `speed_at`."""
    first = model.fit.first_token
    ahead = first.ahead * (busy - 1) * model.prefill(load).total
    return first.start_ms / 1e3 + ahead + first.steps * model.step(busy, load).total * (1 - 1 / busy)


def _summarized(first_s: Sequence[float], token_s: Sequence[float], beside_s: float) -> Simulated:
    first = [beside_s + one for one in first_s]
    return Simulated(len(first), _wait(first), _wait(token_s or (0.0,)))


def _wait(seconds: Sequence[float]) -> Wait:
    p50, p95 = percentiles(seconds, (50, 95))
    return Wait(1e3 * sum(seconds) / len(seconds), 1e3 * p50, 1e3 * p95)


def _amid(load: Load, busy: int, chance: random.Random) -> Iterator[Request]:
    """Requests a part of whose answers, any, is given already and counts as prompt."""
    for _ in range(busy):
        left = max(1, round(load.output_tokens * chance.random()))
        yield Request(0.0, load.request_tokens - left, left)


def _requests(load: Load, chance: random.Random) -> Iterator[Request]:
    """Without end."""
    now = 0.0
    while True:
        if load.requests_per_second is not None:
            now += chance.expovariate(load.requests_per_second)
        output = max(1, round(load.output_tokens * chance.uniform(1 - SPREAD, 1 + SPREAD)))
        yield Request(now, load.input_tokens, output, load.input_tokens - load.read_tokens)
