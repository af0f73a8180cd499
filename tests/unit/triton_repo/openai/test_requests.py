"""The tensors of a request of Dynamo's front: OpenAI's meaning in tensorrt_llm's, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from triton_repo.openai.requests import RequestProblem, max_tokens, request_tensors
from triton_repo.openai.settings import TlsFiles, WorkerSettings, parse_settings
from triton_repo.render.contract import expected_tensors

SETTINGS = WorkerSettings(
    url="localhost:8001",
    model="tiny",
    card="/card",
    max_batch_size=4,
    max_input_len=8,
    max_seq_len=20,
    vocab_size=100,
    end_ids=(2, 7),
    pad_id=0,
    decoupled=True,
)


def asked(settings: WorkerSettings = SETTINGS, **fields: Any) -> dict[str, Any]:
    """The tensors of a request for tokens 11, 12, 13, as nested lists."""
    found = request_tensors({"token_ids": [11, 12, 13], **fields}, settings=settings)
    return {item.name: item.values.tolist() for item in found}


def refusal(**fields: Any) -> str:
    with pytest.raises(RequestProblem) as caught:
        asked(**fields)
    return str(caught.value)


def test_a_request_with_its_least_fields_samples_by_openais_defaults_up_to_the_engines_length() -> None:
    found = asked()
    seed = found.pop("seed")
    assert 0 <= seed[0][0] < 2**63
    assert found == {
        "input_ids": [[11, 12, 13]],
        "input_lengths": [[3]],
        "request_output_len": [[17]],
        "exclude_input_in_output": [[True]],
        "streaming": [[True]],
        "pad_id": [[0]],
        "end_id": [[2]],
        "stop_words_list": [[[7], [1]]],
        "temperature": [[1.0]],
        "runtime_top_k": [[0]],
        "runtime_top_p": [[1.0]],
    }


def test_each_request_without_a_seed_draws_another() -> None:
    assert asked()["seed"] != asked()["seed"]


def test_every_tensor_is_one_of_the_contract_with_its_type_and_number_of_dimensions() -> None:
    contract = {item.name: item for item in expected_tensors("tensorrt_llm").inputs}
    found = request_tensors(
        {
            "token_ids": [11],
            "stop_conditions": {"max_tokens": 4, "min_tokens": 2, "stop_token_ids": [9]},
            "sampling_options": {
                "temperature": 0.5,
                "top_p": 0.9,
                "top_k": 5,
                "seed": -1,
                "repetition_penalty": 1.1,
                "presence_penalty": 0.1,
                "frequency_penalty": 0.2,
                "guided_decoding": {"json": {"type": "object"}, "backend": None},
            },
            "output_options": {"logprobs": 0},
        },
        settings=SETTINGS,
    )
    for item in found:
        wanted = contract[item.name]
        assert item.datatype == wanted.datatype, item.name
        assert item.values.ndim == len(wanted.dims) + 1, item.name
    values = {item.name: item.values.tolist() for item in found}
    assert values["seed"] == [[2**64 - 1]]
    assert values["stop_words_list"] == [[[7, 9], [1, 2]]]
    assert values["min_tokens"] == [[2]]
    assert values["return_log_probs"] == [[True]]
    assert values["guided_decoding_guide_type"] == [[b"json_schema"]]
    assert values["guided_decoding_guide"] == [[b'{"type": "object"}']]


def test_temperature_zero_is_greedy_and_draws_no_seed() -> None:
    found = asked(sampling_options={"temperature": 0, "top_p": 0.5, "seed": 4})
    assert found["runtime_top_k"] == [[1]]
    assert not {"seed", "runtime_top_p", "temperature"} & set(found)


def test_ignore_eos_ends_by_no_token() -> None:
    found = asked(stop_conditions={"ignore_eos": True, "max_tokens": 5})
    assert found["end_id"] == [[-1]]
    assert "stop_words_list" not in found


def test_a_server_that_does_not_stream_is_not_asked_to() -> None:
    assert "streaming" not in asked(replace(SETTINGS, decoupled=False))


def test_limits_of_the_engine_are_refused_by_openais_name_with_what_would_fit() -> None:
    assert refusal(stop_conditions={"max_tokens": 18}) == (
        "max_tokens: 3 prompt tokens + 18 output tokens are more than max_seq_len 20 of this engine; "
        "expected 17 or less"
    )
    assert "prompt: has 9 tokens, more than max_input_len 8" in refusal(token_ids=[1] * 9)
    assert refusal(token_ids=[]).startswith("prompt: is empty")
    assert max_tokens({"token_ids": [1, 2], "stop_conditions": {"max_tokens": 18}}, settings=SETTINGS) == 18


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("n", {"sampling_options": {"n": 2}}),
        ("best_of", {"sampling_options": {"best_of": 2}}),
        ("use_beam_search", {"sampling_options": {"use_beam_search": True}}),
        ("min_p", {"sampling_options": {"min_p": 0.1}}),
        ("top_logprobs", {"output_options": {"logprobs": 2}}),
        ("echo", {"output_options": {"prompt_logprobs": 1}}),
        ("response_format", {"sampling_options": {"guided_decoding": {"choice": ["a", "b"]}}}),
    ],
)
def test_what_tensorrt_llm_cannot_do_is_refused_by_name(field: str, fields: dict[str, Any]) -> None:
    assert refusal(**fields).startswith(f"{field}: ")


def test_the_refusal_of_top_logprobs_names_a_value_that_is_taken() -> None:
    assert refusal(output_options={"logprobs": 5}).endswith("use 1")
    assert asked(output_options={"logprobs": 1})["return_log_probs"] == [[True]]


@pytest.mark.parametrize("asked_for", [0, 1])
def test_the_chosen_tokens_probability_is_asked_for_as_the_front_says_logprobs(asked_for: int) -> None:
    # Dynamo 1.6.1 makes 1 of `logprobs: true` without top_logprobs.
    assert asked(output_options={"logprobs": asked_for})["return_log_probs"] == [[True]]


def test_settings_come_back_from_their_file_as_they_were() -> None:
    tls = TlsFiles(root_certificates="/tls.pem", server_name="host")
    for settings in (SETTINGS, replace(SETTINGS, tls=tls, pad_id=None, tool_call_parser="hermes")):
        assert parse_settings(settings.to_json()) == settings
