"""The smoke test of `trtllm-serve --grpc`: what a server that takes and gives token ids must do.

The same kinds of checks as over the other protocols. Requests are not counted there, so that whether a
client that goes away frees its slot cannot be seen; it checks nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tpforge.manifest import GoldenAnswer, Manifest
from triton_repo.client.channel import RequestRefused
from triton_repo.client.smg import SmgChunk, SmgClient
from triton_repo.smoke.cancelling import long_answer
from triton_repo.smoke.check import (
    CANARY_TOKENS,
    NUM_TOKENS,
    TOGETHER_TOKENS,
    Check,
    CheckResult,
    Failed,
    Skipped,
    counted_golden,
    expect,
    expect_equal,
)
from triton_repo.smoke.report import SmokeReport
from triton_repo.smoke.runner import SmokeOptions, run_checks
from triton_repo.smoke.together import clients_of, expect_same_together
from triton_repo.trtllm_serve.smg import generate_request

_DEFAULT_IDS = ((1, 2, 3, 4), (5, 6, 7), (8, 9, 10, 11, 12), (1, 5, 9))
"""Of no engine that is known: every vocabulary has them."""
_NUM_SEEDS = 4


@dataclass(frozen=True)
class SmgTarget:
    """The server under test, and what is known of its engine."""

    client: SmgClient
    manifest: Manifest | None = None
    num_clients: int = 8

    @cached_property
    def golden(self) -> tuple[tuple[GoldenAnswer, int], ...]:
        """Golden answers with how many of their first tokens rounding cannot change, at least one."""
        return counted_golden(self.manifest)

    @property
    def prompts(self) -> tuple[tuple[tuple[int, ...], int], ...]:
        """Several prompts as token ids, and how many tokens of each answer may be compared."""
        known = tuple((tuple(one.prompt_ids), count) for one, count in self.golden)
        return known or tuple((ids, NUM_TOKENS) for ids in _DEFAULT_IDS)

    @property
    def prompt(self) -> tuple[int, ...]:
        """One of them."""
        return self.prompts[0][0]

    @cached_property
    def canary(self) -> tuple[int, ...]:
        """The answer to the canary prompt, as it was when first asked for."""
        return self.client.generate(self.prompt, max_tokens=CANARY_TOKENS).token_ids

    def streamed(self, ids: Sequence[int], *, max_tokens: int, **sampling: Any) -> tuple[SmgChunk, ...]:
        """All responses of a stream that came to its end."""
        found = tuple(self.client.open(ids, max_tokens=max_tokens, **sampling))
        ends = [place for place, chunk in enumerate(found) if chunk.finish is not None]
        if ends != [len(found) - 1]:
            raise Failed(f"complete responses at {ends} of {len(found)}, expected one, the last")
        return found


def check_health(target: SmgTarget) -> None:
    """HealthCheck says OK."""
    expect_equal(target.client.health().upper(), "OK", what="status")


def check_limits(target: SmgTarget) -> None:
    """GetModelInfo has the engine's limits."""
    if target.manifest is None:
        raise Skipped("no engine is known: give --engine")
    found = target.client.limits().max_seq_len
    if not found:
        raise Skipped("the server does not say max_seq_len")
    expect_equal(found, target.manifest.limits.max_seq_len, what="max_seq_len")


def check_golden(target: SmgTarget) -> None:
    """A golden prompt gets the golden token ids."""
    if target.manifest is None:
        raise Skipped("no engine is known: give --engine")
    if not target.golden:
        raise Skipped("the engine has no golden answers that decide a token: run `tpforge verify` on it")
    for golden, count in target.golden:
        found = target.client.generate(golden.prompt_ids, max_tokens=count).token_ids
        expect_equal(found, golden.token_ids[:count], what=f"answer to golden prompt {golden.name!r}")


def check_streaming(target: SmgTarget) -> None:
    """Chunks hold new tokens alone; joined they are the complete response, and the whole answer."""
    whole = target.client.generate(target.prompt, max_tokens=NUM_TOKENS, ignore_eos=True)
    *chunks, end = target.streamed(target.prompt, max_tokens=NUM_TOKENS, ignore_eos=True)
    joined = tuple(token for chunk in chunks for token in chunk.token_ids)
    expect_equal(joined, end.token_ids, what="tokens of the chunks joined")
    expect_equal(joined, whole.token_ids, what="tokens of the stream")
    expect(len(chunks) > 1, f"the stream came as {len(chunks)} chunk, expected one per token")


def check_determinism(target: SmgTarget) -> None:
    """The same greedy request gets the same answer."""
    answers = {target.client.generate(target.prompt, max_tokens=NUM_TOKENS).token_ids for _ in range(3)}
    expect(len(answers) == 1, f"the same greedy request got {len(answers)} answers")


def check_seed(target: SmgTarget) -> None:
    """A seed repeats a random answer, another seed changes it."""

    def ask(seed: int) -> tuple[int, ...]:
        asked = {"temperature": 2.0, "top_k": 50, "seed": seed, "ignore_eos": True}
        return target.client.generate(target.prompt, max_tokens=NUM_TOKENS, **asked).token_ids

    answers = [ask(seed) for seed in range(1, _NUM_SEEDS + 1)]
    expect_equal(ask(1), answers[0], what="answer to the same seed")
    expect(len(set(answers)) > 1, f"{_NUM_SEEDS} seeds got the same random answer {answers[0]}")


def check_counts(target: SmgTarget) -> None:
    """An answer has as many tokens as asked for, and is told with the right counts."""
    for count in (1, NUM_TOKENS):
        found = target.client.generate(target.prompt, max_tokens=count, ignore_eos=True)
        expect_equal(len(found.token_ids), count, what=f"tokens for max_tokens {count}")
        expect_equal(found.completion_tokens, count, what="completion_tokens")
        expect_equal(found.prompt_tokens, len(target.prompt), what="prompt_tokens")
        expect_equal(found.finish, "length", what="finish reason")


def check_concurrency(target: SmgTarget) -> None:
    """Clients that ask at the same time get the answers that they get alone."""

    def ask(asked: tuple[tuple[int, ...], int]) -> tuple[int, ...]:
        ids, count = asked
        return target.client.generate(ids, max_tokens=min(TOGETHER_TOKENS, count)).token_ids

    questions = clients_of(target.prompts, num_clients=target.num_clients)
    expect_same_together(questions, alone=ask, ask=ask)


def check_cancellation(target: SmgTarget) -> None:
    """A client that goes away in mid-stream leaves a server that answers on."""
    stream = target.client.open(target.prompt, max_tokens=long_answer(target.manifest), ignore_eos=True)
    for number, _chunk in enumerate(stream):
        if number == 1:
            break
    stream.cancel()
    _still_answers(target)


@dataclass(frozen=True)
class Malformed:
    """A wrong request: its bytes, made for the target."""

    name: str
    what: str
    request: Callable[[SmgTarget], bytes]


def _asked(ids: Sequence[int], max_tokens: int, **sampling: Any) -> bytes:
    return bytes(generate_request(ids, max_tokens=max_tokens, sampling=sampling).SerializeToString())


def _too_long(target: SmgTarget) -> bytes:
    if target.manifest is None:
        raise Skipped("no engine is known (--engine), and so no max_seq_len")
    return _asked([1] * (target.manifest.limits.max_seq_len + 1), 1)


MALFORMED = (
    Malformed("no_tokens", "a request without token ids", lambda _target: _asked([], 1)),
    Malformed("zero_max_tokens", "max_tokens 0", lambda target: _asked(target.prompt, 0)),
    Malformed("long_prompt", "a prompt above max_seq_len", _too_long),
    Malformed("unknown_token", "a token id above every vocabulary", lambda _target: _asked([2**31 - 1], 1)),
    Malformed("no_message", "bytes that are no request", lambda _target: b"\xff\xff\xff\xff"),
)


def run_malformed(target: SmgTarget, case: Malformed) -> None:
    """The request is refused by a status of gRPC, and the server answers on."""
    request = case.request(target)
    expect(bool(target.canary), "the canary prompt gets no token")
    try:
        found = tuple(target.client.send(request))
    except RequestRefused:
        _still_answers(target)
        return
    raise Failed(f"{case.what} was answered with {len(found)} responses, expected an error")


def _still_answers(target: SmgTarget) -> None:
    found = target.client.generate(target.prompt, max_tokens=CANARY_TOKENS).token_ids
    expect_equal(found, target.canary, what="the answer to the canary prompt afterwards")


def all_checks() -> tuple[Check[SmgTarget], ...]:
    """Every check, in the order in which they run."""
    checks: tuple[tuple[str, str, Callable[[SmgTarget], None]], ...] = (
        ("health", "HealthCheck says OK", check_health),
        ("limits", "GetModelInfo has the engine's limits", check_limits),
        ("golden", "token ids are those transformers gave at verify", check_golden),
        ("streaming", "chunks hold new tokens alone, and are the whole answer", check_streaming),
        ("determinism", "the same greedy request gets the same answer", check_determinism),
        ("seed", "a seed repeats a random answer, another seed changes it", check_seed),
        ("counts", "an answer has as many tokens as asked for, and is counted right", check_counts),
        ("concurrency", "clients at the same time are answered as they are alone", check_concurrency),
        ("cancellation", "a client that goes away leaves a server that answers on", check_cancellation),
    )
    return (
        *(Check(f"generate.{name}", proves, run) for name, proves, run in checks),
        *(_refuses(case) for case in MALFORMED),
    )


def run_smg_smoke(
    url: str,
    *,
    manifest: Manifest | None = None,
    on_result: Callable[[CheckResult], None],
    options: SmokeOptions | None = None,
) -> SmokeReport:
    """Run every check against HOST:PORT; `on_result` is told of each as it ends.

    Raises:
        ServerUnreachable: nothing answers at `url`.
    """
    chosen = options or SmokeOptions()
    with SmgClient(url, deadline_s=chosen.deadline_s, headers=chosen.headers, tls=chosen.tls) as client:
        client.health()  # An address where nothing listens is an error, not a failed check.
        target = SmgTarget(client, manifest, chosen.num_clients)
        results = run_checks(all_checks(), target, on_result=on_result)
    return SmokeReport(url=url, engine=manifest.name if manifest else None, results=results)


def _refuses(case: Malformed) -> Check[SmgTarget]:
    return Check(
        f"generate.refuses.{case.name}",
        f"{case.what} is refused, and the server answers on",
        lambda target: run_malformed(target, case),
    )
