"""The checks of a Triton server over gRPC, in their order, and their run.

What each does is in the modules beside; how one is run and told is `runner`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tpforge.manifest import Manifest
from triton_repo.client.client import Client
from triton_repo.serve.security import GRPC_ADMIN_HEADER
from triton_repo.smoke import answers, malformed, traffic
from triton_repo.smoke.check import Check, CheckResult, Target
from triton_repo.smoke.health import HEALTH_CHECKS
from triton_repo.smoke.metrics import ActiveRequests
from triton_repo.smoke.report import SmokeReport
from triton_repo.smoke.runner import NUM_BESIDE, SmokeOptions, run_checks
from triton_repo.smoke.security import SECURITY_CHECKS

_MOST_BESIDE = 8
"""Checks at once, of a server with a slot for each."""
ENSEMBLE, BLS, GENERATOR = "ensemble", "tensorrt_llm_bls", "tensorrt_llm"
_BLS_CASES = ("missing_input", "empty_prompt", "negative_max_tokens", "negative_top_k", "invalid_utf8")


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
        num_slots = manifest.limits.max_batch_size if manifest is not None else NUM_BESIDE
        num_beside = max(NUM_BESIDE, min(_MOST_BESIDE, num_slots, chosen.num_clients))
        results = run_checks(checks, target, num_beside=num_beside, on_result=on_result)
    return SmokeReport(url=url, engine=manifest.name if manifest else None, results=results)


def _malformed(case: malformed.Malformed, model: str) -> Check[Target]:
    return Check(
        f"{model}.refuses.{case.name}",
        f"{case.what} is refused by the name {case.field}, and the server answers on",
        lambda target: malformed.run_malformed(target, case, model),
        # The first of them is alone, so that no canary's answer is known from after a wrong request.
        lambda target: target.is_certain and target.knows_canary,
    )
