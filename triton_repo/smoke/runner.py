"""Runs the checks, side by side where that can change no result, and turns what they raise into results.

The list of checks is here; what each does is in the modules beside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from tpforge.errors import TpforgeError
from tpforge.manifest import Manifest
from triton_repo.client.client import Client, ServerUnreachable, Tls
from triton_repo.serve.security import GRPC_ADMIN_HEADER
from triton_repo.smoke import answers, malformed, traffic
from triton_repo.smoke.check import Asked, Check, CheckResult, Failed, Skipped, Target
from triton_repo.smoke.health import HEALTH_CHECKS
from triton_repo.smoke.metrics import ActiveRequests
from triton_repo.smoke.report import SmokeReport
from triton_repo.smoke.security import SECURITY_CHECKS

_NUM_BESIDE = 4
"""Checks at once: no request waits so long for the others that its deadline comes near."""
ENSEMBLE, BLS, GENERATOR = "ensemble", "tensorrt_llm_bls", "tensorrt_llm"
_BLS_CASES = ("missing_input", "empty_prompt", "negative_max_tokens", "negative_top_k", "invalid_utf8")


@dataclass(frozen=True)
class SmokeOptions:
    """How the server is asked: deadline of each request, concurrent clients, headers, TLS."""

    deadline_s: float = 60.0
    num_clients: int = 8
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None


@dataclass(frozen=True)
class _Asked:
    """A check that takes the model it asks."""

    name: str
    proves: str
    run: Callable[[Target, str], None]
    is_of_one_answer: bool = False
    """It asks for answers that are sure to be the same whatever else is asked, where there are such."""

    def of(self, model: str) -> Check[Target]:
        def may_run_beside(target: Target) -> bool:
            return self.is_of_one_answer and target.is_certain

        return Check(
            f"{model}.{self.name}", self.proves, lambda target: self.run(target, model), may_run_beside
        )


_STREAMING = _Asked(
    "streaming", "a streamed answer comes in order, ends with the final flag, and is the same text",
    answers.check_streaming, is_of_one_answer=True,
)  # fmt: skip
_GOLDEN = _Asked(
    "golden",
    "the answer is the one transformers gave at verify",
    answers.check_golden_text,
    is_of_one_answer=True,
)
_SEED = _Asked("seed", "a seed repeats a random answer, another seed changes it", answers.check_seed)
_STOP_WORDS = _Asked(
    "stop_words", "an answer ends at a stop word", answers.check_stop_words, is_of_one_answer=True
)
_BATCH = _Asked("batch", "several prompts in one request are answered as they are alone", traffic.check_batch)
_CANCEL = _Asked("cancellation", "cancelling in mid-stream frees the slot", traffic.check_cancellation)
_CONCURRENCY = _Asked(
    "concurrency", "clients at the same time are answered as they are alone", traffic.check_concurrency
)

_ENSEMBLE_CHECKS = (
    _GOLDEN,
    _STREAMING,
    _Asked(
        "determinism",
        "the same greedy request gets the same answer",
        answers.check_determinism,
        is_of_one_answer=True,
    ),
    _SEED,
    _STOP_WORDS,
    _Asked(
        "max_tokens",
        "an answer has as many tokens as asked for",
        answers.check_max_tokens,
        is_of_one_answer=True,
    ),
    _Asked("end_id", "an answer ends before the token end_id", answers.check_end_id, is_of_one_answer=True),
    _BATCH,
    _CONCURRENCY,
    _CANCEL,
    _Asked("stop", "stop=true under its request id ends a stream", traffic.check_stop_ends_stream),
)
_BLS_CHECKS = (_GOLDEN, _STREAMING, _SEED, _STOP_WORDS, _BATCH, _CONCURRENCY, _CANCEL)


def all_checks() -> tuple[Check[Target], ...]:
    """Every check, in the order in which they run."""
    return (
        *HEALTH_CHECKS,
        Check("tensorrt_llm.golden", "token ids are those transformers gave", answers.check_golden_tokens),
        *(check.of(ENSEMBLE) for check in _ENSEMBLE_CHECKS),
        *(check.of(BLS) for check in _BLS_CHECKS),
        _CANCEL.of(GENERATOR),
        *(_malformed(case, ENSEMBLE) for case in malformed.CASES),
        *(_malformed(case, BLS) for case in malformed.CASES if case.name in _BLS_CASES),
    )


def run_smoke(
    url: str,
    *,
    manifest: Manifest | None = None,
    metrics_url: str | None = None,
    on_result: Callable[[CheckResult], None],
    options: SmokeOptions | None = None,
) -> SmokeReport:
    """Run every check against the gRPC endpoint `url`; `on_result` is told of each as it ends.

    Over TLS, or with the administrator's key, those of its security come first.

    A manifest brings golden answers and limits; a metrics URL lets cancellation be seen.

    Raises:
        ServerUnreachable: nothing answers at `url`.
    """
    chosen = options or SmokeOptions()
    with Client(url, deadline_s=chosen.deadline_s, headers=chosen.headers, tls=chosen.tls) as client:
        client.is_live()  # An address where nothing listens is an error, not a failed check.
        target = Target(
            client=client,
            manifest=manifest,
            metrics=ActiveRequests(metrics_url) if metrics_url else None,
            num_clients=chosen.num_clients,
            headers=chosen.headers,
            tls=chosen.tls,
        )
        is_secured = chosen.tls is not None or GRPC_ADMIN_HEADER in chosen.headers
        checks = (*(SECURITY_CHECKS if is_secured else ()), *all_checks())
        results = run_checks(checks, target, on_result=on_result)
    return SmokeReport(url=url, engine=manifest.name if manifest else None, results=results)


def run_checks(
    checks: tuple[Check[Asked], ...], target: Asked, *, on_result: Callable[[CheckResult], None]
) -> tuple[CheckResult, ...]:
    """Run `checks` in order, those that may run beside others where the first of them stands.

    When the server goes away, the rest are skipped.
    """
    results: dict[int, CheckResult] = {}
    gone: str | None = None
    for numbers in _batches(checks, target):
        if gone is not None:
            found = [(_skipped(checks[number], gone), False) for number in numbers]
        elif len(numbers) == 1:
            found = [run_check(checks[numbers[0]], target)]
        else:
            with ThreadPoolExecutor(_NUM_BESIDE) as pool:
                found = list(pool.map(lambda number: run_check(checks[number], target), numbers))
        for number, (result, _) in zip(numbers, found, strict=True):
            results[number] = result
            on_result(result)
        if lost := [result.name for result, is_gone in found if is_gone]:
            gone = f"the server went away during {' and '.join(lost)}"
    return tuple(results[number] for number in range(len(checks)))


def _batches(checks: tuple[Check[Asked], ...], target: Asked) -> Iterator[list[int]]:
    """The numbers of checks that run at once."""
    left = dict(enumerate(checks))
    while left:
        first = next(iter(left))
        beside = left[first].may_run_beside(target)
        numbers = [n for n, check in left.items() if check.may_run_beside(target)] if beside else [first]
        left = {number: check for number, check in left.items() if number not in numbers}
        yield numbers


def _skipped(check: Check[Asked], reason: str) -> CheckResult:
    return CheckResult(check.name, check.proves, "skip", reason, 0.0)


def run_check(check: Check[Asked], target: Asked) -> tuple[CheckResult, bool]:
    """Run one check; its result, and whether the server is gone."""
    result = partial(CheckResult, check.name, check.proves)
    begun = time.monotonic()
    try:
        check.run(target)
    except Skipped as skipped:
        return result("skip", str(skipped), time.monotonic() - begun), False
    except Failed as failed:
        return result("fail", str(failed), time.monotonic() - begun), False
    except TpforgeError as error:
        is_gone = isinstance(error, ServerUnreachable)
        return result("fail", str(error), time.monotonic() - begun), is_gone
    except (KeyError, ValueError, IndexError, TypeError) as error:
        # An answer that cannot be read: a tensor or field that is not there, or not of the contract's form.
        reason = f"the answer does not have the contract's form: {type(error).__name__}: {error}"
        return result("fail", reason, time.monotonic() - begun), False
    return result("pass", "", time.monotonic() - begun), False


def _malformed(case: malformed.Malformed, model: str) -> Check[Target]:
    return Check(
        f"{model}.refuses.{case.name}",
        f"{case.what} is refused by the name {case.field}, and the server answers on",
        lambda target: malformed.run_malformed(target, case, model),
    )
