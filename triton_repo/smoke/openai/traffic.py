"""Checks of several HTTP requests at once, and of one whose client went away.

Each takes the API that is asked, ``completions`` or ``chat``.
"""

from __future__ import annotations

from triton_repo.client.openai import DONE
from triton_repo.smoke.cancelling import (
    IDLE_WITHIN_S,
    SEEN_WITHIN_S,
    early_s,
    long_answer,
    read_beginning,
    wait_for,
)
from triton_repo.smoke.check import NUM_TOKENS, Skipped, expect, expect_equal
from triton_repo.smoke.openai.target import OpenAiTarget
from triton_repo.smoke.together import clients_of, expect_same_together

_SHORT_S = 9.0
"""trtllm-serve looks once a second for clients that went away (openai_server.py, await_disconnected)."""


def check_concurrency(target: OpenAiTarget, api: str) -> None:
    """Clients that ask at the same time get the answers that they get alone."""
    target.require(api)

    def num_tokens(prompt: str) -> int:
        return target.num_decisive(prompt, NUM_TOKENS)

    expect_same_together(
        clients_of(target.prompts, num_clients=target.num_clients),
        alone=lambda prompt: target.alone(api, prompt, max_tokens=num_tokens(prompt)),
        ask=lambda prompt: target.ask(api, prompt, max_tokens=num_tokens(prompt)).text,
        named=lambda prompt: f" to {prompt!r}",
    )


def check_cancellation(target: OpenAiTarget, api: str) -> None:
    """A client that goes away in mid-stream gives its slot back long before its answer would have ended."""
    target.require(api)
    running = target.running
    if running is None:
        raise Skipped("no count of running requests is known")
    if not wait_for(running.read, lambda count: not count, within_s=IDLE_WITHIN_S):
        raise Skipped("the server has other requests, so that a freed slot cannot be told")
    count = long_answer(target.manifest)
    # An extension that trtllm-serve, Dynamo and vLLM share keeps the model from ending the answer.
    with target.open(api, target.prompt, max_tokens=count, ignore_eos=True) as stream:
        rest_s = read_beginning(stream, num_tokens=count, end_of=lambda event: DONE if event == DONE else "")
        seen = wait_for(running.read, lambda active: bool(active), within_s=SEEN_WITHIN_S)
    is_short = rest_s < _SHORT_S
    if not seen and not is_short:
        raise Skipped(
            "the server does not tell how many requests run (trtllm-serve does with return_perf_metrics or "
            "enable_iter_perf_stats), so that a freed slot cannot be seen"
        )
    within_s = early_s(rest_s)
    freed = seen and wait_for(running.read, lambda active: active == 0, within_s=within_s)
    if not freed and is_short:
        raise Skipped(f"the whole answer of {count} tokens takes only {rest_s:.1f} s: too short to tell")
    expect(freed, f"still generating {within_s:.0f} s after its client went away, with {rest_s:.0f} s to go")
    expect_equal(target.ask(api, target.prompt, max_tokens=1).value["choices"][0]["index"], 0, what="index")
