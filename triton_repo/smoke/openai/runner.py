"""The checks of an OpenAI-compatible server, in their order, and their run.

What each does is in the modules beside; how one is run and told is `triton_repo.smoke.runner`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tpforge.manifest import Manifest
from triton_repo.client.openai import OpenAiClient, base_of
from triton_repo.smoke.check import Check, CheckResult
from triton_repo.smoke.openai import answers, malformed, traffic
from triton_repo.smoke.openai.running import PATHS, ServerGauge
from triton_repo.smoke.openai.target import APIS, OpenAiTarget, PromptTokens
from triton_repo.smoke.report import SmokeReport
from triton_repo.smoke.runner import SmokeOptions, run_checks


@dataclass(frozen=True)
class _Asked:
    """A check that takes the API it asks."""

    name: str
    proves: str
    run: Callable[[OpenAiTarget, str], None]

    def of(self, api: str) -> Check[OpenAiTarget]:
        return Check(f"{api}.{self.name}", self.proves, lambda target: self.run(target, api))


_OF_BOTH = (
    _Asked("contract", "answers and chunks have the fields that clients read", answers.check_contract),
    _Asked("streaming", "a stream comes in order, ends with [DONE], and is the same text",
           answers.check_streaming),
    _Asked("determinism", "the same greedy request gets the same answer", answers.check_determinism),
    _Asked("seed", "a seed repeats a random answer, another seed changes it", answers.check_seed),
    _Asked("stop_words", "an answer ends before a stop word", answers.check_stop_words),
    _Asked("max_tokens", "an answer has as many tokens as asked for", answers.check_max_tokens),
    _Asked("usage", "usage counts the tokenizer's tokens, special ones once", answers.check_usage),
    _Asked("usage_in_stream", "a stream tells its usage in a last chunk, when asked",
           answers.check_usage_in_stream),
    _Asked("concurrency", "clients at the same time are answered as they are alone",
           traffic.check_concurrency),
    _Asked("cancellation", "a client that goes away frees its slot", traffic.check_cancellation),
)  # fmt: skip


def all_checks() -> tuple[Check[OpenAiTarget], ...]:
    """Every check, in the order in which they run."""
    return (
        Check("models", "/v1/models lists the model", answers.check_models),
        Check(
            "completions.golden", "the answer is the one transformers gave at verify", answers.check_golden
        ),
        *(check.of(api) for api in APIS for check in _OF_BOTH),
        *(_malformed(case, api) for api in APIS for case in malformed.CASES if api in case.apis),
    )


def run_openai_smoke(
    url: str,
    *,
    model: str | None = None,
    manifest: Manifest | None = None,
    tokens: PromptTokens | None = None,
    metrics_urls: tuple[str, ...] = (),
    on_result: Callable[[CheckResult], None],
    options: SmokeOptions | None = None,
) -> SmokeReport:
    """Run every check against http://HOST:PORT; `on_result` is told of each as it ends.

    `model` None is the only one that the server lists. A manifest brings golden answers and limits, `tokens`
    the engine's tokenizer, metrics URLs a count of running requests where the server's own /metrics has none.
    The certificate of an https URL is checked by its own opener: `options.tls` is not looked at.

    Raises:
        ServerUnreachable: nothing answers at `url`.
        UsageError: the server lists several models, or none, and `model` names none.
    """
    chosen = options or SmokeOptions()
    client = OpenAiClient(url, chosen.deadline_s, chosen.headers)
    base = base_of(url)
    target = OpenAiTarget(
        client=client,
        model=model or client.only_model(),
        manifest=manifest,
        tokens=tokens,
        running=ServerGauge((*(base + path for path in PATHS), *metrics_urls)),
        num_clients=chosen.num_clients,
    )
    results = run_checks(all_checks(), target, on_result=on_result)
    return SmokeReport(url=url, engine=manifest.name if manifest else None, results=results)


def _malformed(case: malformed.Malformed, api: str) -> Check[OpenAiTarget]:
    return Check(
        f"{api}.refuses.{case.name}",
        f"{case.what} is refused by name, and the server answers on",
        lambda target: malformed.run_malformed(target, case, api),
    )
