"""Runs checks, side by side where that can change no result, and turns what they raise into results.

How the server is asked is said here, and which checks there are in the modules of the protocols beside.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from tpforge.errors import TpforgeError
from triton_repo.client.channel import ServerUnreachable, Tls
from triton_repo.smoke.check import Asked, Check, CheckResult, Failed, Skipped

NUM_BESIDE = 4
"""Checks at once, of few slots or unknown ones: no request waits so long that its deadline comes near."""


@dataclass(frozen=True)
class SmokeOptions:
    """How the server is asked: deadline of each request, concurrent clients, headers, TLS."""

    deadline_s: float = 60.0
    num_clients: int = 8
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None


def run_checks(
    checks: tuple[Check[Asked], ...],
    target: Asked,
    *,
    num_beside: int = NUM_BESIDE,
    on_result: Callable[[CheckResult], None],
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
            with ThreadPoolExecutor(num_beside) as pool:
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
