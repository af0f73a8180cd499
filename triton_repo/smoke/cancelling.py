"""How a request that nobody waits for any more can be seen to give its slot back, over whatever protocol.

A slot that is freed proves something only long before the answer would have ended by itself: the beginning of
the stream tells its pace. It sends nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TypeVar

from tpforge.manifest import Manifest
from triton_repo.smoke.check import expect

SEEN_WITHIN_S = 2.0
IDLE_WITHIN_S = 10.0
"""The supervisor and other probes ask for a token now and then."""
NUM_BEFORE_CANCEL = 5
_PACE_S = 0.3
_POLL_S = 0.05
_EARLY = 5
_FREED_WITHIN_S = 30.0
"""However much is left: a failed check shall be told in time."""
_MOST_TOKENS = 16384
"""It is cancelled: the longer it would be, the surer it is seen, however fast the model is."""
_UNKNOWN_LIMIT = 256

Event = TypeVar("Event")


def long_answer(manifest: Manifest | None, *, num_prompt_tokens: int | None = None) -> int:
    """As many tokens as the engine takes after a prompt, of which None says that it may be the longest."""
    if manifest is None:
        return _UNKNOWN_LIMIT
    limits = manifest.limits
    longest = limits.max_input_len
    prompt = longest if num_prompt_tokens is None else min(longest, num_prompt_tokens)
    return max(1, min(_MOST_TOKENS, limits.max_seq_len - prompt))


def early_s(rest_s: float) -> float:
    """Until when a slot that is freed shows that its request was ended, and did not end by itself.

    A fifth of what was left: the client may read slower than the server generates, and a busy machine takes
    its time to free a slot.
    """
    return min(_FREED_WITHIN_S, rest_s / _EARLY)


def read_beginning(stream: Iterable[Event], *, num_tokens: int, end_of: Callable[[Event], str]) -> float:
    """Read the stream for a moment; the seconds that the rest would take at its pace.

    The pace is taken between events, for the first one took the whole prompt, and over a while, for several
    may arrive at once. `end_of` says by what an event ends the stream; most do not, and it says "".

    Raises:
        Failed: the stream ended.
    """
    moments: list[float] = []
    for event in stream:
        end = end_of(event)
        expect(not end, f"the stream of {num_tokens} tokens ended after {len(moments)} events: {end}")
        moments.append(time.monotonic())
        is_paced = len(moments) >= NUM_BEFORE_CANCEL and moments[-1] - moments[0] >= _PACE_S
        if is_paced or len(moments) > num_tokens // 4:
            break
    expect(len(moments) > 1, f"the stream of {num_tokens} tokens ended after {len(moments)} events")
    return (num_tokens - len(moments)) * (moments[-1] - moments[0]) / (len(moments) - 1)


def wait_for(
    read: Callable[[], int | None], condition: Callable[[int | None], bool], *, within_s: float
) -> bool:
    """Whether the count of running requests, None where the server does not tell, meets it in time."""
    end = time.monotonic() + within_s
    while True:
        if condition(read()):
            return True
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_S)
