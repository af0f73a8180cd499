"""What a check is, how it says pass, fail or skip, and what it may ask of the server.

It checks nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar

from tpforge.dtypes import DType
from tpforge.errors import TpforgeError
from tpforge.golden import decisive_tokens, first_run
from tpforge.manifest import GoldenAnswer, Manifest
from triton_repo.client.client import Client, Tls
from triton_repo.client.wire import Response, tensor
from triton_repo.smoke.canary import Canary
from triton_repo.smoke.metrics import ActiveRequests

CheckStatus = Literal["pass", "fail", "skip"]

NUM_TOKENS = 16
"""Tokens of an ordinary answer: enough to stream, few enough for a slow machine."""

LEAST_TOKENS = 4
"""Below this an answer shows too little: then as many are asked for as always, and nothing else beside."""

CANARY_TOKENS = 2
"""Enough to show that a prompt is read and a step decoded: it is asked after each refusal."""

TOGETHER_TOKENS = 8
"""Tokens of answers that are computed beside others: several steps, in which a batch is one."""

AUTO_COMPUTE_DTYPE = DType.FLOAT32
"""What the reference runtime computes in when its config says `auto`."""
OPEN_PROMPT = "Once upon a time"
"""A prompt that can go on in many ways: what is random shows soon. It is short, and so is its reading."""
DEFAULT_PROMPTS = ("The capital of France is", "One, two, three,", "Once upon a time", "Hello, my name is")


class Failed(Exception):
    """The server does not keep the contract; the message says what it did and what was expected."""


class Skipped(Exception):
    """The check cannot tell; the message says what is missing."""


@dataclass(frozen=True)
class CheckResult:
    """How one check ended; `reason` is empty for a pass."""

    name: str
    proves: str
    status: CheckStatus
    reason: str
    seconds: float


Asked = TypeVar("Asked")
"""What a check asks: `Target` over gRPC, `openai.target.OpenAiTarget` over HTTP."""


@dataclass(frozen=True)
class Check(Generic[Asked]):
    """One check: `run` returns when it passes, and raises Failed or Skipped otherwise.

    `may_run_beside` tells whether it comes out the same while other checks ask the server; by default it has
    the server for itself.
    """

    name: str
    proves: str
    run: Callable[[Asked], None]
    may_run_beside: Callable[[Asked], bool] = lambda _target: False


def counted_golden(manifest: Manifest | None) -> tuple[tuple[GoldenAnswer, int], ...]:
    """Golden answers with how many of their first tokens rounding cannot change, at least one.

    Of a server that computes in the engine's own dtype, as TensorRT-LLM's do.
    """
    if manifest is None:
        return ()
    counted = [
        (one, first_run(decisive_tokens(one, parity=manifest.parity, compute_dtype=manifest.dtype)).count)
        for one in manifest.golden
    ]
    return tuple((one, count) for one, count in counted if count)


@dataclass(frozen=True)
class Target:
    """The server under test, and what is known of its engine."""

    client: Client
    manifest: Manifest | None = None
    metrics: ActiveRequests | None = None
    num_clients: int = 8
    headers: Mapping[str, str] = field(default_factory=dict)
    tls: Tls | None = None

    @cached_property
    def compute_dtype(self) -> DType:
        """What the server computes in: the reference runtime's config says it, others use the engine's."""
        parameters = self.client.config("tensorrt_llm").parameters
        said = parameters["compute_dtype"].string_value if "compute_dtype" in parameters else ""
        if said and said != "auto":
            return DType(said)
        return AUTO_COMPUTE_DTYPE if said or self.manifest is None else self.manifest.dtype

    @cached_property
    def golden(self) -> tuple[GoldenAnswer, ...]:
        """The engine's golden answers whose first token at least rounding cannot change."""
        return tuple(answer for answer in self._answers if first_run(self.decisive(answer)).count)

    @property
    def _answers(self) -> tuple[GoldenAnswer, ...]:
        return self.manifest.golden if self.manifest is not None else ()

    def decisive(self, answer: GoldenAnswer) -> tuple[bool, ...]:
        """Of each token of a golden answer, whether it can't depend on rounding as this server computes."""
        parity = self.manifest.parity if self.manifest is not None else None
        return decisive_tokens(answer, parity=parity, compute_dtype=self.compute_dtype)

    @property
    def prompt(self) -> str:
        """A prompt that the model has something to say to."""
        return self.golden[0].prompt if self.golden else DEFAULT_PROMPTS[0]

    @property
    def prompts(self) -> tuple[str, ...]:
        """Several prompts, all different, the shortest first: a long one costs as much as many answers.

        Raises:
            Skipped: golden answers are known, and rounding may change the first token of each.
        """
        if self._answers and not self.golden:
            raise Skipped(
                f"computed in {self.compute_dtype}, the answer to every golden prompt may begin otherwise "
                "when requests are computed together"
            )
        shortest_first = sorted(self.golden, key=lambda answer: len(answer.prompt_ids))
        return tuple(answer.prompt for answer in shortest_first) or DEFAULT_PROMPTS

    @property
    def num_tokens(self) -> int:
        """Tokens of an ordinary answer to `prompt`: where it can be, as many as rounding cannot change."""
        return self._num_certain if self._num_certain >= LEAST_TOKENS else NUM_TOKENS

    @property
    def is_certain(self) -> bool:
        """Whether an ordinary answer is the same whatever is computed together with it."""
        try:
            return self._num_certain >= LEAST_TOKENS
        except TpforgeError:
            return False  # What is wrong with the server is for the checks to say.

    @property
    def _num_certain(self) -> int:
        """Decisive tokens that the answer begins with; nobody knows of any without golden answers."""
        return min(NUM_TOKENS, first_run(self.decisive(self.golden[0])).count) if self.golden else 0

    def num_decisive(self, prompt: str) -> int:
        """How many greedy tokens of a prompt do not depend on rounding, at most NUM_TOKENS.

        Requests that are computed together may round otherwise than alone; without golden answers that
        risk is taken.
        """
        known = {answer.prompt: first_run(self.decisive(answer)).count for answer in self.golden}
        return min(NUM_TOKENS, known.get(prompt, NUM_TOKENS))

    @cached_property
    def canary(self) -> str:
        """The answer to the canary prompt, as it was when first asked for."""
        return self._ask_canary()

    @cached_property
    def canary_again(self) -> Canary:
        """The same question, for checks that want its answer from after something."""
        return Canary(self._ask_canary)

    def _ask_canary(self) -> str:
        return self.client.generate(self.prompt, max_tokens=CANARY_TOKENS).text

    @cached_property
    def open_prompt_ids(self) -> tuple[int, ...]:
        """OPEN_PROMPT as preprocessing makes tokens of it."""
        asked = [tensor("QUERY", "BYTES", [[OPEN_PROMPT]]), tensor("REQUEST_OUTPUT_LEN", "INT32", [[1]])]
        ids = single(self.client.infer("preprocessing", asked)).outputs["INPUT_ID"]
        return tuple(int(token) for token in ids.reshape(-1))

    @property
    def knows_canary(self) -> bool:
        """Whether the canary was asked for already."""
        return "canary" in self.__dict__

    def alone(self, prompt: str, *, num_tokens: int) -> str:
        """The ensemble's answer to a prompt that nothing else runs beside; asked once."""
        known = self._alone
        if (prompt, num_tokens) not in known:
            known[prompt, num_tokens] = self.client.generate(prompt, max_tokens=num_tokens).text
        return known[prompt, num_tokens]

    @cached_property
    def _alone(self) -> dict[tuple[str, int], str]:
        return {}

    @cached_property
    def greedy(self) -> tuple[int, ...]:
        """The first `num_tokens` greedy tokens after `prompt`; asked once."""
        return self.greedy_tokens(self.prompt, num_tokens=self.num_tokens)

    def greedy_tokens(self, prompt: str, *, num_tokens: int) -> tuple[int, ...]:
        """The greedy answer as token ids: what preprocessing and tensorrt_llm say without the ensemble."""
        prepared = self.client.infer(
            "preprocessing",
            [tensor("QUERY", "BYTES", [[prompt]]), tensor("REQUEST_OUTPUT_LEN", "INT32", [[num_tokens]])],
        )
        return self.continue_tokens(single(prepared).outputs["INPUT_ID"], num_tokens=num_tokens)

    def continue_tokens(self, input_ids: Any, *, num_tokens: int) -> tuple[int, ...]:
        """What tensorrt_llm generates after these token ids, shape [1, n]."""
        answered = self.client.infer(
            "tensorrt_llm",
            [
                tensor("input_ids", "INT32", input_ids),
                tensor("input_lengths", "INT32", [[len(input_ids[0])]]),
                tensor("request_output_len", "INT32", [[num_tokens]]),
                tensor("exclude_input_in_output", "BOOL", [[True]]),
            ],
        )
        outputs = single(answered).outputs
        length = int(outputs["sequence_length"].reshape(-1)[0])
        return tuple(int(token) for token in outputs["output_ids"].reshape(-1)[:length])


def single(responses: tuple[Response, ...]) -> Response:
    """The only response with content."""
    found = [response for response in responses if not response.is_empty]
    expect(len(found) == 1, f"{len(found)} responses to one request that is not streamed, expected 1")
    return found[0]


def expect(condition: bool, failure: str) -> None:
    """Raise Failed unless the condition holds."""
    if not condition:
        raise Failed(failure)


def expect_equal(found: object, expected: object, *, what: str) -> None:
    """Raise Failed, with both values, unless they are equal."""
    expect(found == expected, f"{what}: {found!r}, expected {expected!r}")
