"""Responses of tensorrt_llm as the chunks of Dynamo's front, and its errors as OpenAI's."""

from __future__ import annotations

import numpy as np
import pytest

from triton_repo.client.wire import Array, Response
from triton_repo.openai.answers import Counted
from triton_repo.openai.refusals import Refusal, refusal_of


def response(tokens: list[int], *, log_probs: list[float] | None = None, padding: int = 0) -> Response:
    outputs: dict[str, Array] = {
        "output_ids": np.array([[[*tokens, *[0] * padding]]], dtype=np.int32),
        "sequence_length": np.array([[len(tokens)]], dtype=np.int32),
    }
    if log_probs is not None:
        outputs["output_log_probs"] = np.array([[log_probs]], dtype=np.float32)
    return Response(outputs=outputs, final=False)


def test_tokens_are_those_within_the_sequence_length_and_are_counted() -> None:
    answer = Counted(num_prompt=3, max_tokens=5)
    assert answer.read(response([4, 5], padding=2)) == {"token_ids": [4, 5], "index": 0}
    assert answer.read(response([])) is None
    assert answer.read(Response(outputs={}, final=True)) is None
    assert answer.read(response([6], log_probs=[-0.5])) == {"token_ids": [6], "index": 0, "log_probs": [-0.5]}
    assert answer.end() == {
        "token_ids": [],
        "index": 0,
        "finish_reason": "stop",
        "completion_usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
    }


def test_an_answer_of_all_its_tokens_ended_by_length_and_a_cancelled_one_by_that() -> None:
    answer = Counted(num_prompt=1, max_tokens=2)
    answer.read(response([4, 5]))
    assert answer.end()["finish_reason"] == "length"
    assert answer.end("cancelled")["finish_reason"] == "cancelled"


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "max_tokens (request_output_len): found 0, expected 1",
            "request",
            "max_tokens: found 0, expected 1",
        ),
        ("top_p (runtime_top_p): found 2.0, expected 0 to 1", "request", "top_p: found 2.0, expected 0 to 1"),
        ("text_input (input_ids): is empty", "request", "prompt: is empty"),
        ("seed: found -1, expected 0 to 2**64 - 1", "request", "seed: found -1, expected 0 to 2**64 - 1"),
        ("Maximum queue size of 4 has been reached: 4 requests wait; try again in about 2 s", "busy", None),
        ("in ensemble 'x', inference request batch-size must be <= 8", "server", None),
        ("error: bad_words and min_tokens leave no token to choose from", "server", None),
        ("Failed to process the request(s), the stub process has exited", "lost", None),
        (
            "Server is stopping, scheduler for model has stopped, new inference requests are unavailable",
            "lost",
            None,
        ),
        (
            "guided_decoding_guide: is not offered; omit it; guided_decoding_guide_type: is not offered; "
            "omit it; request_output_len: is 0; expected 1 or more",
            "request",
            "response_format: is not offered; omit it; max_tokens: is 0; expected 1 or more",
        ),
    ],
)
def test_an_error_of_triton_is_the_clients_fault_only_by_a_field_of_its_request(
    text: str, kind: str, message: str | None
) -> None:
    assert refusal_of(text) == Refusal(kind, message or text)  # type: ignore[arg-type]
