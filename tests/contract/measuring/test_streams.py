"""Streams of OpenAI-compatible servers as they are: what of them is an answer, and how many tokens it has.

Sources: OpenAI's chat completion chunk object (content, tool_calls, refusal); vLLM 0.11.2 (reasoning beside
reasoning_content, continuous_usage_stats); DeepSeek's reasoning_content.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.contract.measuring.conftest import Put
from tests.support.servers.virtual_openai import Answer, Asked, Message
from tpforge.measure.runs.latencies import inter_token_latency
from tpforge.measure.runs.samples import Sample
from triton_repo.load.counting import Counting, spread
from triton_repo.load.openai_target import OpenAiOptions
from triton_repo.load.schedule import Closed


def call(arguments: str, name: str | None = None) -> dict[str, Any]:
    function = {"arguments": arguments, **({"name": name} if name else {})}
    return {"tool_calls": [{"index": 0, "function": function}]}


ROLE: dict[str, Any] = {"role": "assistant", "content": ""}


def answered(put: Put, deltas: Sequence[dict[str, Any]], **more: Any) -> Sample:
    """The sample of one chat whose deltas come every 10 ms."""

    def script(asked: Asked) -> Answer:
        messages = [Message(0.01 * (index + 1), delta) for index, delta in enumerate(deltas)]
        return Answer(messages, **more)

    (sample,) = put(script, Closed(1), num_requests=1, options=OpenAiOptions(chat=True)).samples
    assert isinstance(sample, Sample)
    return sample


@pytest.mark.parametrize(
    ("deltas", "text"),
    [
        ([{"reasoning": "so"}, {"reasoning": " then"}, {"content": "4"}], "so then4"),
        ([{"reasoning_content": "so"}, {"content": "4"}], "so4"),
        ([{"reasoning": "so", "reasoning_content": "so"}, {"content": "4"}], "so4"),
        ([{"reasoning_content": "so", "content": None}], "so"),
        ([{"reasoning": "only thinking"}], "only thinking"),
        ([call('{"a":', "add"), call(" 1}")], 'add{"a": 1}'),
        ([{"refusal": "no"}], "no"),
    ],
)
def test_what_a_model_thinks_calls_or_refuses_is_an_answer(
    put: Put, deltas: list[dict[str, Any]], text: str
) -> None:
    sample = answered(put, [ROLE, *deltas])
    assert (sample.error_kind, sample.output_text) == (None, text)
    # The role alone is no token: the first one comes with the second message.
    assert sample.token_times_s == pytest.approx([0.01 * (n + 2) for n in range(len(deltas))])


def test_a_stream_of_nothing_is_incomplete(put: Put) -> None:
    assert answered(put, [ROLE, {"content": ""}], finish=None).error_kind == "incomplete"
    nothing = answered(put, [ROLE], finish=None, usage={"completion_tokens": 5})
    assert nothing.error_kind == "incomplete"


@pytest.mark.parametrize("reason", ["stop", "length", "content_filter"])
def test_an_answer_that_ends_at_once_with_its_reason_is_an_empty_answer(put: Put, reason: str) -> None:
    """The one token of it is the one that ends it, of which there is no text."""
    sample = answered(put, [ROLE], finish=reason, usage={"completion_tokens": 1})
    assert (sample.error_kind, sample.output_text, sample.finish_reason) == (None, "", reason)
    assert (sample.first_token_s, sample.token_times_s, sample.output_tokens) == (None, (), 1)
    assert sample.last_s == sample.ended_s


def test_usage_counts_what_the_text_does_not_show(put: Put) -> None:
    """Special tokens that a parser of thoughts or calls took out are tokens that were paid for."""
    usage = {"prompt_tokens": 7, "completion_tokens": 12}
    sample = answered(put, [{"reasoning": "a b c"}, {"content": "d"}], usage=usage)
    assert (sample.input_tokens, sample.output_tokens) == (7, 12)
    assert sample.tokens_per_response == (6, 6)


def test_thoughts_that_are_not_shown_were_made_before_the_first_message(put: Put) -> None:
    """40 tokens, 30 of them hidden: 10 messages, 10 ms apart, are 10 ms per token."""
    usage = {"completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 30}}
    sample = answered(put, [{"content": "x"}] * 10, usage=usage)
    assert sample.tokens_per_response == (31, *[1] * 9)
    assert inter_token_latency(sample) == pytest.approx([10])
    shown = answered(put, [{"reasoning": "x"}] * 30 + [{"content": "x"}] * 10, usage=usage)
    assert (shown.output_tokens, shown.tokens_per_response) == (40, ())
    assert inter_token_latency(shown) == pytest.approx([10])


def test_a_tokenizer_counts_where_the_server_does_not_and_says_how_much_each_message_held(put: Put) -> None:
    def script(asked: Asked) -> Answer:
        return Answer([Message(0.1, "one two three "), Message(0.2, "four ")])

    def words(texts: Sequence[str]) -> list[int]:
        return [len(text.split()) for text in texts]

    found = put(script, Closed(1), num_requests=1, counting=Counting(inputs=words, outputs=words))
    (sample,) = found.samples
    assert (found.token_source, sample.output_tokens, sample.tokens_per_response) == ("tokenizer", 4, (3, 1))


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [(4, [3, 1], (3, 1)), (10, [1, 1, 1], (3, 4, 3)), (5, [0, 0], (1, 4)), (3, [9, 1, 1], (1, 1, 1))],
)
def test_tokens_are_spread_whole_and_none_is_lost(
    total: int, weights: list[int], expected: tuple[int]
) -> None:
    assert spread(total, weights) == expected
