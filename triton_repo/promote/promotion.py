"""From one engine to the next without losing a request: smoke, canary, shift, watch, and back by itself.

What it shifts by is a `Switch`: the router between servers of this machine, or the Service of a cluster
(`cluster`). It prints nothing.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tpforge.errors import RegressionFound, TpforgeError, VerificationFailed
from tpforge.progress import Progress
from tpforge.units import counted

if TYPE_CHECKING:
    from tpforge.manifest import Manifest
    from triton_repo.client.channel import Tls
    from triton_repo.promote.router import Router

_PROMPT = "The capital of France is"


@dataclass(frozen=True)
class Backend:
    """A server with the engine that it serves, and how it is reached."""

    engine: str
    url: str
    manifest: Manifest | None = None
    metrics_url: str | None = None
    tls: Tls | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


class Switch(Protocol):
    """What decides which server new requests go to."""

    def shift(self, to: Backend) -> Backend:
        """Send new requests to a server; where clients meet it from now on."""
        ...


@dataclass(frozen=True)
class RouterSwitch:
    """The router between servers of this machine."""

    router: Router
    host: str
    port: int

    def refuse_exposed(self, *backends: Backend) -> None:
        """Refuse to stand between other machines and a server that wants TLS.

        Raises:
            UsageError: it listens, or would listen, on more than this machine.
        """
        from triton_repo.promote.router import refuse_exposed

        state = self.router.state
        host = state.url.rpartition(":")[0] if state is not None else self.host
        refuse_exposed(host, wants_tls=any(one.tls is not None for one in backends))

    def shift(self, to: Backend) -> Backend:
        """Turn the router, which is started when it does not run.

        Raises:
            EnvironmentUnusable: it does not start.
        """
        from triton_repo.promote.router import Route

        self.refuse_exposed(to)
        self.router.turn(Route(target=to.url, engine=to.engine, tls=to.tls))
        return Backend(to.engine, self.router.start(host=self.host, port=self.port).url, headers=to.headers)


@dataclass(frozen=True)
class PromoteOptions:
    """What the candidate has to keep.

    Its p95 over `num_requests` requests may be `max_p95_ms`, or else `max_p95_ratio` times that of the
    fallback, asked in turn with it, so that both see the same machine.
    """

    num_requests: int = 40
    concurrency: int = 4
    max_tokens: int = 16
    max_p95_ms: float | None = None
    max_p95_ratio: float = 1.5
    deadline_s: float = 60.0


@dataclass(frozen=True)
class Promotion:
    """What was measured, and what came of it."""

    candidate: str
    previous: str | None
    num_checks: int
    canary_p95_ms: float
    limit_ms: float
    watched_p95_ms: float


def promote(
    switch: Switch,
    candidate: Backend,
    fallback: Backend | None,
    *,
    options: PromoteOptions,
    progress: Progress,
) -> Promotion:
    """Make `candidate` the server that new requests go to, or leave or put things back as they were.

    Raises:
        VerificationFailed: the candidate's smoke test failed, or it lost requests.
        RegressionFound: its p95 is beyond the limit.
        EnvironmentUnusable: what shifts does not work.
    """
    num_checks = _smoke(candidate, options, progress)
    limit, measured = _canary(candidate, fallback, options, progress)
    try:
        clients_see = switch.shift(candidate)
        progress(f"shifted {clients_see.url} to {candidate.engine}")
        (watched,) = _measure((clients_see,), options)
        if watched > limit:
            raise RegressionFound(
                f"{candidate.engine}: p95 {watched:.0f} ms after the shift, the limit is {limit:.0f} ms"
            )
    except BaseException as error:
        if fallback is None:
            raise
        _go_back(switch, fallback, error)
        progress(f"went back to {fallback.engine}")
        if isinstance(error, TpforgeError):
            raise type(error)(f"{error}; {fallback.engine} is the active one again") from error
        raise
    return Promotion(
        candidate.engine, fallback.engine if fallback else None, num_checks, measured, limit, watched
    )


def _go_back(switch: Switch, fallback: Backend, because: BaseException) -> None:
    try:
        with _undisturbed():
            switch.shift(fallback)
    except TpforgeError as error:
        raise type(error)(
            f"{because}; and going back to {fallback.engine} failed, so look after it by hand: {error}"
        ) from because


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that ask for the end change nothing: it comes after what is done here, within a minute or two.

    By handlers and not by SIG_IGN or a mask, which the router and kubectl would inherit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, lambda _number, _frame: None) for number in heard}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _smoke(candidate: Backend, options: PromoteOptions, progress: Progress) -> int:
    """The checks of the candidate's smoke test, all of which passed or were skipped."""
    from triton_repo.smoke import SmokeOptions, run_smoke
    from triton_repo.smoke.report import refuse_failed, summary

    progress(f"smoke test of {candidate.engine}")
    report = run_smoke(
        candidate.url,
        manifest=candidate.manifest,
        metrics_url=candidate.metrics_url,
        on_result=lambda _check: None,
        options=SmokeOptions(deadline_s=options.deadline_s, headers=candidate.headers, tls=candidate.tls),
    )
    refuse_failed(report)
    progress(f"smoke test: {summary(report)}")
    return len(report.results)


def _canary(
    candidate: Backend, fallback: Backend | None, options: PromoteOptions, progress: Progress
) -> tuple[float, float]:
    """The limit and the candidate's p95 in ms, measured beside the fallback."""
    measured = _measure((candidate, *((fallback,) if fallback else ())), options)
    if options.max_p95_ms is not None:
        limit = options.max_p95_ms
    else:
        limit = options.max_p95_ratio * (measured[1] if fallback else measured[0])
    progress(f"canary: p95 {measured[0]:.0f} ms, limit {limit:.0f} ms, n={options.num_requests}")
    if measured[0] > limit:
        raise RegressionFound(
            f"{candidate.engine}: p95 {measured[0]:.0f} ms over {counted(options.num_requests, 'request')}, "
            f"the limit is {limit:.0f} ms; nothing was shifted"
        )
    return limit, measured[0]


def _measure(backends: tuple[Backend, ...], options: PromoteOptions) -> list[float]:
    """p95 of the request latency in ms of each server, asked in turn by every worker.

    Raises:
        VerificationFailed: a request failed.
    """
    from triton_repo.client.client import Client

    clients = [
        Client(one.url, deadline_s=options.deadline_s, headers=one.headers, tls=one.tls) for one in backends
    ]

    def ask(index: int) -> list[float]:
        times = []
        for client in clients:
            begun = time.monotonic()
            client.generate(f"{_PROMPT} {index}", max_tokens=options.max_tokens, stream=True)
            times.append((time.monotonic() - begun) * 1e3)
        return times

    pool = ThreadPoolExecutor(options.concurrency)
    try:
        rows = list(pool.map(ask, range(options.num_requests)))
    except TpforgeError as error:
        raise VerificationFailed(f"a request of the canary was lost: {error}") from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for client in clients:  # Ends what is still asked: going back must not wait for a server that hangs.
            client.close()
        pool.shutdown()
    return [_p95([row[column] for row in rows]) for column in range(len(backends))]


def _p95(values: list[float]) -> float:
    """The smallest value that 95 of 100 do not exceed."""
    ordered = sorted(values)
    return ordered[math.ceil(0.95 * len(ordered)) - 1]
