"""Checks of several requests at once, and of one that nobody waits for any more.

Each takes the model that is asked.
"""

from __future__ import annotations

import math
import time

from triton_repo.client.client import RequestCancelled, Stream, new_request_id, prompt_tensors
from triton_repo.client.wire import Response, tensor
from triton_repo.smoke.cancelling import (
    IDLE_WITHIN_S,
    NUM_BEFORE_CANCEL,
    SEEN_WITHIN_S,
    early_s,
    long_answer,
    read_beginning,
    wait_for,
)
from triton_repo.smoke.check import (
    LEAST_TOKENS,
    OPEN_PROMPT,
    TOGETHER_TOKENS,
    Skipped,
    Target,
    expect,
    expect_equal,
)
from triton_repo.smoke.metrics import ActiveRequests
from triton_repo.smoke.together import NUM_PROMPTS, clients_of, expect_same_together

_SHORT_S = 6.0


def check_batch(target: Target, model: str) -> None:
    """Several prompts in one request get the answers that they get alone, each at its own index."""
    room = target.client.max_batch_size(model)
    prompts = target.prompts[: min(3, room)]
    if len(prompts) < 2:
        raise Skipped(f"max_batch_size of {model} is {room}")
    count = min(_num_together(target, prompt) for prompt in prompts)
    alone = tuple(target.alone(prompt, num_tokens=count) for prompt in prompts)
    together = target.client.generate_batch(prompts, max_tokens=count, model=model)
    expect_equal(together, alone, what=f"answers of a request with {len(prompts)} prompts")


def check_concurrency(target: Target, model: str) -> None:
    """Clients that ask at the same time get the answers that they get alone."""

    def ask(prompt: str) -> str:
        return target.client.generate(prompt, max_tokens=_num_together(target, prompt), model=model).text

    expect_same_together(
        clients_of(target.prompts, num_clients=target.num_clients),
        alone=lambda prompt: target.alone(prompt, num_tokens=_num_together(target, prompt)),
        ask=ask,
        named=lambda prompt: f" to {prompt!r}",
    )


def _num_together(target: Target, prompt: str) -> int:
    """Tokens of an answer that is compared with the same alone.

    As many for all prompts, where those are several, so that each is asked alone once; else its own.
    """
    of_all = min(target.num_decisive(one) for one in target.prompts[:NUM_PROMPTS])
    return min(TOGETHER_TOKENS, of_all if of_all >= LEAST_TOKENS else target.num_decisive(prompt))


def check_cancellation(target: Target, model: str) -> None:
    """A request that is cancelled in mid-stream gives its slot back long before it would have ended.

    Triton does not pass the cancellation of an ensemble on. Where postprocessing notices it, as its parameter
    `stops_abandoned` says, a plain cancel is sent as to any model; elsewhere the client asks tensorrt_llm to
    stop the request of that id: then the check shows that this frees the slot, not that a client may go away.
    """
    metrics = _idle_metrics(target)
    request_id = new_request_id()
    count = _long_answer(target)
    stream = _open_long(target, model, request_id=request_id, num_tokens=count)
    rest_s = read_beginning(stream, num_tokens=count, end_of=_end_of)
    since = time.monotonic()
    seen = wait_for(metrics.read, lambda active: bool(active), within_s=SEEN_WITHIN_S)
    if not seen:
        rest_s = min(rest_s, _read_rest(stream, since=since))
    is_short = rest_s < _SHORT_S
    expect(seen or is_short, f"{metrics.url} shows no active request while one is streaming")
    _cancel(target, model, stream, request_id=request_id)
    within_s = early_s(rest_s)
    freed = seen and wait_for(metrics.read, lambda active: active == 0, within_s=within_s)
    if not freed and is_short:
        raise Skipped(f"the whole answer of {count} tokens takes only {rest_s:.1f} s: too short to tell")
    expect(freed, f"still generating {within_s:.0f} s after it was cancelled, with {rest_s:.0f} s to go")
    expect_equal(target.client.generate(OPEN_PROMPT, max_tokens=1).chunks[-1].final, True, what="next answer")


def _end_of(response: Response) -> str:
    return str(response.error) if response.error is not None else "final flag" if response.final else ""


def _read_rest(stream: Stream, *, since: float) -> float:
    """The seconds from `since` in which the rest came; endless when it takes longer than a short one.

    On a busy machine the client's pace says nothing: the whole answer may have waited to be read.
    """
    for _ in stream:
        if time.monotonic() - since > _SHORT_S:
            return math.inf
    return time.monotonic() - since


def _cancel(target: Target, model: str, stream: Stream, *, request_id: str) -> None:
    """Say that nobody waits any more, in the way that reaches the generating model."""
    if model == "ensemble" and not _notices_abandoned(target):
        target.client.stop(request_id)
    stream.cancel()


def _notices_abandoned(target: Target) -> bool:
    parameters = target.client.config("postprocessing").parameters
    return bool(parameters["stops_abandoned"].string_value == "true")


def check_stop_ends_stream(target: Target, model: str) -> None:
    """stop=true under the id of a stream ends the stream itself, with the final flag."""
    request_id = new_request_id()
    count = _long_answer(target)
    stream = _open_long(target, model, request_id=request_id, num_tokens=count)
    num_responses, finals = 0, 0
    try:
        for response in stream:
            expect(response.error is None, f"the stream ended with an error: {response.error}")
            num_responses += not response.is_empty
            finals += response.final
            if num_responses == NUM_BEFORE_CANCEL and not response.final:
                target.client.stop(request_id)
    except RequestCancelled as error:
        raise Skipped(str(error)) from None
    expect(num_responses < count, f"the stream went on to its end, {num_responses} responses, after stop")
    expect_equal(finals, 1, what="responses with the final flag")


def _idle_metrics(target: Target) -> ActiveRequests:
    if target.metrics is None:
        raise Skipped("the metrics port is not known, so that a freed slot cannot be seen")
    if target.metrics.read() is None:
        raise Skipped(f"{target.metrics.url} has no nv_trt_llm_request_metrics")
    if not wait_for(target.metrics.read, lambda active: active == 0, within_s=IDLE_WITHIN_S):
        raise Skipped("the server has other requests, so that a freed slot cannot be told")
    return target.metrics


def _long_answer(target: Target) -> int:
    """As many tokens as the engine takes after the prompt."""
    known = None if target.manifest is None else len(target.open_prompt_ids)
    return long_answer(target.manifest, num_prompt_tokens=known)


def _open_long(target: Target, model: str, *, request_id: str, num_tokens: int) -> Stream:
    """A stream that does not end by itself: min_tokens keeps the model from ending it."""
    if model == "tensorrt_llm":
        tensors = [
            tensor("input_ids", "INT32", [list(target.open_prompt_ids)]),
            tensor("input_lengths", "INT32", [[len(target.open_prompt_ids)]]),
            tensor("request_output_len", "INT32", [[num_tokens]]),
            tensor("min_tokens", "INT32", [[num_tokens]]),
            tensor("streaming", "BOOL", [[True]]),
        ]
    else:
        tensors = prompt_tensors(
            [OPEN_PROMPT], max_tokens=num_tokens, model=model, stream=True, min_tokens=num_tokens
        )
    return target.client.open(model, tensors, request_id=request_id)
