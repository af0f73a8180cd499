"""When a server with OpenAI's API that was started is ready, proven: its own model, and one token generated.

A health endpoint says that a process lives, not that it generates. It watches one start; the supervisor
decides what follows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from typing import Literal

from tpforge.errors import EnvironmentUnusable, InputRefused, TpforgeError
from tpforge.progress import Progress
from tpforge.units import format_seconds
from triton_repo.client.openai import PLAIN, OpenAiClient
from triton_repo.serve import triton_log
from triton_repo.serve.readiness import Start, Stopped, describe_end

_POLL_S = 0.2
_LIST_DEADLINE_S = 5.0
_PROGRESS_S = 10.0


def wait_generates(
    start: Start,
    *,
    model: str,
    api: Literal["openai", "trtllm-grpc"] = "openai",
    progress: Progress,
    is_stopped: Callable[[], bool],
    now: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when the server has generated a token, over OpenAI's API under the name `model`.

    Raises:
        Stopped: `is_stopped` said so.
        InputRefused: it ended, with its log's own reason; or it listens, and refuses to generate.
        EnvironmentUnusable: it was not ready within the load timeout, or another server answers there.
    """
    assert start.http_url is not None
    begun, said_at = now(), now()
    lists = partial(_lists, start.http_url, model)
    asks = partial(generate_token, start.http_url, model=model)
    if api == "trtllm-grpc":
        lists, asks = partial(_is_healthy, start.url), partial(generate_token_id, start.url)
    while not lists():
        _refuse_ended(start, is_stopped)
        if now() - begun > start.load_timeout_s:
            raise EnvironmentUnusable(_late(start))
        if now() - said_at > _PROGRESS_S:
            said_at = now()
            progress(f"{start.program} is loading ({format_seconds(now() - begun)})")
        sleep(_POLL_S)
    progress(f"{start.program} listens; asking {model} for one token")
    left_s = max(_LIST_DEADLINE_S, start.load_timeout_s - (now() - begun))
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(asks, deadline_s=left_s)
        while not answer.done():
            wait([answer], timeout=_POLL_S)
            if not answer.done():
                _refuse_ended(start, is_stopped)
        try:
            answer.result()
        except TpforgeError as error:
            raise InputRefused(
                f"{start.program} listens, but did not answer a first request: {error}\n  log: {start.log}"
            ) from error


def generate_token(url: str, *, model: str, deadline_s: float) -> None:
    """Have the server generate one token.

    Raises:
        TpforgeError: it did not.
    """
    body = {"model": model, "prompt": "Hello", "max_tokens": 1, "temperature": 0}
    try:
        value = OpenAiClient(url, deadline_s).ask(PLAIN, body)
        choices = value["choices"]
    except (ValueError, KeyError) as error:
        raise InputRefused(f"{url}: {type(error).__name__}: {error}") from error
    if not choices:
        raise InputRefused(f"{url}: no choice in {json.dumps(value)[:300]}")


def generate_token_id(url: str, *, deadline_s: float) -> None:
    """Have a server of trtllm-serve's gRPC generate one token after one that every vocabulary has.

    Raises:
        TpforgeError: it did not.
    """
    from triton_repo.client.smg import SmgClient

    try:
        with SmgClient(url, deadline_s=deadline_s) as client:
            found = client.generate([1], max_tokens=1, ignore_eos=True)
    except ValueError as error:
        raise InputRefused(f"{url}: {error}") from error
    if not found.token_ids:
        raise InputRefused(f"{url}: an answer without a token")


def _is_healthy(url: str) -> bool:
    """Whether a server of that protocol answers there, and calls itself well."""
    from triton_repo.client.smg import SmgClient

    try:
        with SmgClient(url, deadline_s=_LIST_DEADLINE_S) as client:
            return client.health().upper() == "OK"
    except TpforgeError:
        return False


def _lists(url: str, model: str) -> bool:
    """Whether a server answers there, and has the model.

    Raises:
        EnvironmentUnusable: it has others: it is another server.
    """
    try:
        names = OpenAiClient(url, _LIST_DEADLINE_S).models()
    except (TpforgeError, ValueError, KeyError, TypeError):
        return False
    if names and model not in names:
        raise EnvironmentUnusable(f"{url}: another server answers there, with {', '.join(names)}")
    return model in names


def _refuse_ended(start: Start, is_stopped: Callable[[], bool]) -> None:
    if is_stopped():
        raise Stopped
    return_code = start.process.poll()
    if return_code is not None:
        raise InputRefused(describe_end(start, return_code=return_code))


def _late(start: Start) -> str:
    lines = "\n  ".join(triton_log.last_lines(start.read_log()))
    return (
        f"{start.program} was not ready within {format_seconds(start.load_timeout_s)}; give it longer with "
        f"--load-timeout, or see {start.log}:\n  {lines}"
    )
