"""Checks of several HTTP requests at once, and of one whose client went away.

Each takes the API that is asked, `completions` or `chat`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from triton_repo.client.openai import DONE, OpenAiStream
from triton_repo.smoke.check import NUM_TOKENS, Skipped, expect, expect_equal
from triton_repo.smoke.openai.running import Running
from triton_repo.smoke.openai.target import OpenAiTarget
from triton_repo.smoke.traffic import early_s

FREED_WITHIN_S = 3.0
"""trtllm-serve looks once a second for clients that went away (openai_server.py, await_disconnected)."""
_SEEN_WITHIN_S = 2.0
_POLL_S = 0.05
_NUM_BEFORE_CLOSE = 5
_PACE_S = 0.3
_IDLE_WITHIN_S = 10.0
"""The supervisor and other probes ask for a token now and then."""
_MOST_TOKENS = 16384
"""Its client goes away: the longer it would be, the surer it is seen, however fast the model is."""
_UNKNOWN_LIMIT = 256
_NUM_PROMPTS = 4


def check_concurrency(target: OpenAiTarget, api: str) -> None:
    """Clients that ask at the same time get the answers that they get alone."""
    target.require(api)
    several = target.prompts[:_NUM_PROMPTS]
    prompts = [several[index % len(several)] for index in range(target.num_clients)]
    counts = [target.num_decisive(prompt, NUM_TOKENS) for prompt in prompts]

    def ask(prompt: str, count: int) -> str:
        return target.ask(api, prompt, max_tokens=count).text

    alone = [
        target.alone(api, prompt, max_tokens=count) for prompt, count in zip(prompts, counts, strict=True)
    ]
    with ThreadPoolExecutor(target.num_clients) as pool:
        together = list(pool.map(ask, prompts, counts))
    for index, (prompt, text) in enumerate(zip(prompts, together, strict=True)):
        what = f"answer of client {index} of {target.num_clients} to {prompt!r}"
        expect_equal(text, alone[index], what=what)


def check_cancellation(target: OpenAiTarget, api: str) -> None:
    """A client that goes away in mid-stream gives its slot back long before its answer would have ended."""
    target.require(api)
    running = target.running
    if running is None:
        raise Skipped("no count of running requests is known")
    if not _wait(running, lambda count: not count, _IDLE_WITHIN_S):
        raise Skipped("the server has other requests, so that a freed slot cannot be told")
    count = _long_answer(target)
    # An extension that trtllm-serve, Dynamo and vLLM share keeps the model from ending the answer.
    with target.open(api, target.prompt, max_tokens=count, ignore_eos=True) as stream:
        rest_s = _read_beginning(stream, num_tokens=count)
        seen = _wait(running, lambda active: bool(active), _SEEN_WITHIN_S)
    is_short = rest_s < 3 * FREED_WITHIN_S
    if not seen and not is_short:
        raise Skipped(
            "the server does not tell how many requests run (trtllm-serve does with return_perf_metrics or "
            "enable_iter_perf_stats), so that a freed slot cannot be seen"
        )
    within_s = early_s(rest_s, freed_within_s=FREED_WITHIN_S)
    freed = seen and _wait(running, lambda active: active == 0, within_s)
    if not freed and is_short:
        raise Skipped(f"the whole answer of {count} tokens takes only {rest_s:.1f} s: too short to tell")
    expect(
        freed, f"still generating {FREED_WITHIN_S:g} s after its client went away, with {rest_s:.0f} s to go"
    )
    expect_equal(target.ask(api, target.prompt, max_tokens=1).value["choices"][0]["index"], 0, what="index")


def _read_beginning(stream: OpenAiStream, *, num_tokens: int) -> float:
    """Read the stream for a moment; the seconds that the rest would take at its pace."""
    moments: list[float] = []
    for event in stream:
        expect(event != DONE, f"the stream of {num_tokens} tokens ended after {len(moments)} events")
        moments.append(time.monotonic())
        is_paced = len(moments) >= _NUM_BEFORE_CLOSE and moments[-1] - moments[0] >= _PACE_S
        if is_paced or len(moments) > num_tokens // 4:
            break
    expect(len(moments) > 1, f"the stream of {num_tokens} tokens ended after {len(moments)} events")
    return (num_tokens - len(moments)) * (moments[-1] - moments[0]) / (len(moments) - 1)


def _long_answer(target: OpenAiTarget) -> int:
    """As many tokens as the engine takes after the prompt."""
    if target.manifest is None:
        return _UNKNOWN_LIMIT
    limits = target.manifest.limits
    return max(1, min(_MOST_TOKENS, limits.max_seq_len - limits.max_input_len))


def _wait(running: Running, condition: Callable[[int | None], bool], timeout_s: float) -> bool:
    """Whether the count of running requests meets the condition in time."""
    end = time.monotonic() + timeout_s
    while True:
        if condition(running.read()):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
