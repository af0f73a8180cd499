"""A server of one engine under requests that come one by one: how long each waits for its tokens.

It chooses no load and no engine, and knows no GPU: how long a step takes is asked of a `StepModel`. The
scheduler is TensorRT-LLM's: in-flight batching, prompts read in chunks beside the requests that are answered,
and no request taken in whose whole cache does not fit (GUARANTEED_NO_EVICT).
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tpforge.plan.speed.load import Load, Tokens
from tpforge.plan.speed.throughput import StepModel

_EXACT = 1e-9


@dataclass(frozen=True)
class Request:
    """It comes at `at_s`; `cached` tokens of its prompt need not be read."""

    at_s: float
    input_tokens: int
    output_tokens: int
    cached: int = 0

    @property
    def num_tokens(self) -> int:
        """Prompt and answer."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True)
class Waited:
    """Seconds to the first token, in the order in which requests got it; a later token, as they ended.

    `output_tokens` of the ended were made in `seconds`.
    """

    first_s: tuple[float, ...]
    token_s: tuple[float, ...]
    output_tokens: int
    seconds: float


@dataclass
class _Reading:
    """A prompt of which `left` tokens are still to be read."""

    request: Request
    left: int


@dataclass(order=True)
class _Running:
    """A request that is answered until the step `last`."""

    last: float
    number: int
    request: Request = field(compare=False)
    first_s: float = field(compare=False)


class Server:
    """One engine between two steps; `scale` times as fast as estimated."""

    def __init__(self, model: StepModel, *, load: Load, scale: float) -> None:
        self._model, self._load, self._scale = model, load, scale
        settings = model.engine.settings
        # With attention data parallelism every rank has a batch and a budget of its own, and a step of a
        # pipeline is one of each of its parts of the batch.
        groups = model.engine.memory.cache_groups
        passes = groups * model.engine.shapes.mapping.pp_size
        self._slots, self._budget = settings.max_batch_size * passes, settings.max_num_tokens * passes
        self._room = model.engine.memory.kv_bytes * groups
        self._per_step = load.drafts.tokens_per_step
        self._used_bytes, self._bytes = 0, dict[int, int]()
        self._steps, self._context = 0.0, 0.0
        self._waiting, self._reading = deque[Request](), deque[_Reading]()
        self._running: list[_Running] = []
        self.now = 0.0
        self.first_s: list[float] = []
        self.token_s: list[float] = []
        self.output_tokens = 0

    @property
    def is_idle(self) -> bool:
        """Nothing waits, is read or answered."""
        return not (self._waiting or self._reading or self._running)

    def begin(self, requests: Sequence[Request]) -> None:
        """Answer these from now on, as if their prompts had just been read; as many as fit."""
        for request in requests:
            if self._fits(request):
                self._used_bytes += self._bytes_of(request)
                self._start(request)

    def come(self, request: Request) -> None:
        """One more that waits."""
        self._waiting.append(request)

    def advance(self, until: float) -> int:
        """Take in what fits, then a step, or several in which nothing changes; how many requests ended.

        None of several steps begins after `until`.
        """
        while self._waiting and self._fits(self._waiting[0]):
            request = self._waiting.popleft()
            self._used_bytes += self._bytes_of(request)
            self._reading.append(_Reading(request, max(1, request.input_tokens - request.cached)))
        if self._reading:
            self._mixed_step()
        else:
            self._same_steps(until)
        return self._end()

    def _fits(self, request: Request) -> bool:
        """Alone in the server every request does: it was judged before."""
        if not self._used_bytes:
            return True
        busy = len(self._running) + len(self._reading)
        return busy < self._slots and self._used_bytes + self._bytes_of(request) <= self._room

    def _same_steps(self, until: float) -> None:
        """Steps of the same requests up to the next end: the cache that they read grows evenly."""
        count = max(1.0, math.ceil(self._running[0].last - self._steps - _EXACT))
        seconds = self._seconds(after=(count - 1) / 2)
        if self.now + count * seconds > until:
            count = min(count, max(1.0, math.ceil((until - self.now) / seconds)))
            seconds = self._seconds(after=(count - 1) / 2)
        self._pass(count, seconds)

    def _mixed_step(self) -> None:
        """A step that reads prompts in their order, the last one in part, beside the answers."""
        budget = max(1, self._budget - len(self._running))
        prompt, seen = 0, 0.0
        read: list[Request] = []
        while self._reading and prompt < budget:
            first = self._reading[0]
            taken = min(first.left, budget - prompt)
            seen += taken * (first.request.input_tokens - first.left + taken / 2)
            prompt += taken
            first.left -= taken
            if not first.left:
                read.append(self._reading.popleft().request)
        self._pass(1, self._seconds(prompt=prompt, seen=seen / prompt, prompts=len(read) or 1))
        for request in read:
            self.first_s.append(self.now - request.at_s)
            self._start(request)

    def _start(self, request: Request) -> None:
        more = (request.output_tokens - 1) / self._per_step
        number = len(self.first_s) + len(self._running)
        heapq.heappush(self._running, _Running(self._steps + more, number, request, self.now))
        self._context += request.input_tokens

    def _pass(self, count: float, seconds: float) -> None:
        self.now += count * seconds
        self._steps += count
        self._context += count * self._per_step * len(self._running)

    def _seconds(self, *, after: float = 0.0, prompt: int = 0, seen: float = 0.0, prompts: int = 1) -> float:
        """Of a step, `after` others of the same requests."""
        batch, drafts = len(self._running), self._load.drafts
        context = self._context / batch + after * self._per_step if batch else 0.0
        tokens = Tokens(batch, context, prompt, seen, 1 + drafts.num_tokens, prompts)
        return self._model.time(tokens, drafts=drafts).total / self._scale

    def _end(self) -> int:
        ended = 0
        while self._running and self._running[0].last <= self._steps + _EXACT:
            one = heapq.heappop(self._running)
            ended += 1
            self._used_bytes -= self._bytes_of(one.request)
            # As many as were counted while it ran: the last step may have made more than were left.
            steps = math.ceil((one.request.output_tokens - 1) / self._per_step - _EXACT)
            self._context -= one.request.input_tokens + steps * self._per_step
            self.output_tokens += one.request.output_tokens
            if one.request.output_tokens > 1:
                self.token_s.append((self.now - one.first_s) / (one.request.output_tokens - 1))
        return ended

    def _bytes_of(self, request: Request) -> int:
        tokens = request.num_tokens
        if tokens not in self._bytes:
            self._bytes[tokens] = self._model.engine.memory.layout.request_bytes(tokens)
        return self._bytes[tokens]


def serve_as_they_come(server: Server, requests: Iterator[Request], *, enough: int) -> Waited:
    """Requests in the order of their times, however many wait; until `enough` have their first token."""
    ahead = next(requests, None)
    while (ahead or not server.is_idle) and len(server.first_s) < enough:
        if server.is_idle and ahead:
            server.now = max(server.now, ahead.at_s)
        while ahead and ahead.at_s <= server.now:
            server.come(ahead)
            ahead = next(requests, None)
        server.advance(ahead.at_s if ahead else math.inf)
    return _waited(server)


def serve_at_once(server: Server, requests: Iterator[Request], *, number: int, enough: int) -> Waited:
    """`number` more at once, another one as soon as one has ended; until `enough` have their first token."""

    def come(count: int) -> None:
        for request in (next(requests, None) for _ in range(count)):
            if request is not None:
                server.come(replace(request, at_s=server.now))

    come(number)
    while not server.is_idle and len(server.first_s) < enough:
        come(server.advance(math.inf))
    return _waited(server)


def _waited(server: Server) -> Waited:
    return Waited(tuple(server.first_s), tuple(server.token_s), server.output_tokens, server.now)
