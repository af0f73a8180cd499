"""Every input of a request is honoured or refused by the user's own name for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from triton_repo.render.contract import expected_tensors
from triton_repo.templates.reference.serving import fields
from triton_repo.templates.reference.serving.fields import FieldError, describe, refuse_unsupported
from triton_repo.templates.reference.serving.generation import Defaults, parse_item
from triton_repo.templates.reference.serving.parameters import ParameterError, Parameters
from triton_repo.templates.reference.serving.words import check_words, pack_words, unpack_words

HONOURED = {
    "preprocessing": {
        "QUERY",
        "REQUEST_OUTPUT_LEN",
        "BAD_WORDS_DICT",
        "STOP_WORDS_DICT",
        "END_ID",
        "PAD_ID",
    },
    "tensorrt_llm": {
        "input_ids",
        "input_lengths",
        "request_output_len",
        "num_return_sequences",
        "end_id",
        "pad_id",
        "stop_words_list",
        "bad_words_list",
        "temperature",
        "runtime_top_k",
        "runtime_top_p",
        "repetition_penalty",
        "min_tokens",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "return_log_probs",
        "return_perf_metrics",
        "return_num_input_tokens",
        "return_num_output_tokens",
        "exclude_input_in_output",
        "stop",
        "streaming",
    },
}
# These have no effect at beam width 1, or without a decay of top_p.
WITHOUT_EFFECT = {"len_penalty", "early_stopping", "beam_search_diversity_rate", "runtime_top_p_reset_ids"}


@pytest.mark.parametrize("model", list(HONOURED))
def test_every_input_is_honoured_or_refused_and_none_is_ignored(model: str) -> None:
    inputs = {tensor.name for tensor in expected_tensors(model).inputs}

    assert inputs - fields._UNSUPPORTED.keys() == HONOURED[model] | (inputs & WITHOUT_EFFECT)


def test_every_input_of_bls_is_passed_on_or_refused() -> None:
    source = Path(fields.__file__).with_name("bls.py").read_text(encoding="utf-8")
    inputs = {tensor.name for tensor in expected_tensors("tensorrt_llm_bls").inputs}

    assert {name for name in inputs if f'"{name}":' not in source} == inputs & fields._UNSUPPORTED.keys()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beam_width", np.array([[1]], np.int32)),
        ("return_context_logits", np.array([[False]])),
        ("embedding_bias", np.zeros((1, 0), np.float32)),
        ("embedding_bias_words", np.array([[b""]], object)),
        ("runtime_top_p_min", np.array([[1e-6]], np.float32)),
        ("runtime_top_p_decay", np.array([[1.0]], np.float32)),
        ("prompt_vocab_size", np.array([[0]], np.int32)),
        ("image_url_input", np.array([[b""]], object)),
    ],
)
def test_a_value_that_asks_for_nothing_is_accepted(name: str, value: Any) -> None:
    refuse_unsupported({name: value})


def test_all_unsupported_fields_are_refused_at_once() -> None:
    inputs = {"lora_task_id": np.array([[0]], np.uint64), "beam_width": np.array([[4]], np.int32)}

    with pytest.raises(FieldError) as refused:
        refuse_unsupported(inputs)

    assert str(refused.value) == (
        "beam_width: beam search is not supported by the reference runtime; leave it out, or give 1; "
        "lora_task_id: LoRA is not supported by the reference runtime; leave it out"
    )


def test_a_field_is_named_as_the_user_knows_it() -> None:
    assert describe("request_output_len", "x") == "max_tokens (request_output_len): x"
    assert describe("temperature", "x") == "temperature: x"


def test_words_are_packed_as_upstream_packs_them() -> None:
    packed = pack_words([((5, 6), (7,)), ((8,),), ()])

    assert packed.tolist() == [
        [[5, 6, 7], [2, 3, -1]],
        [[8, 0, 0], [1, -1, -1]],
        [[0, 0, 0], [-1, -1, -1]],
    ]
    assert packed.dtype == np.int32
    assert [unpack_words(row, field="stop_words_list") for row in packed] == [((5, 6), (7,)), ((8,),), ()]


def test_no_words_are_an_empty_tensor() -> None:
    assert pack_words([(), ()]).shape == (2, 2, 0)


@pytest.mark.parametrize("ends", [[0, -1], [2, 1], [3, -1]])
def test_word_ends_that_do_not_rise_within_the_ids_are_refused(ends: list[int]) -> None:
    with pytest.raises(FieldError, match=r"stop_words \(stop_words_list\): word ends"):
        unpack_words(np.array([[5, 6], ends], np.int32), field="stop_words_list")


def test_the_default_end_token_means_every_end_token_of_the_model() -> None:
    defaults = Defaults(
        exclude_input_in_output=True, decoupled=True, vocab_size=320, default_end_id=256, max_sequences=4
    )

    def sampling(end_id: int) -> dict[str, Any]:
        inputs = {
            "input_ids": np.array([[1, 2]], np.int32),
            "input_lengths": np.array([[2]], np.int32),
            "request_output_len": np.array([[3]], np.int32),
            "end_id": np.array([[end_id]], np.int32),
        }
        return parse_item(inputs, defaults=defaults).sampling

    assert sampling(256) == {"max_tokens": 3}
    assert sampling(255) == {"max_tokens": 3, "end_id": 255}
    assert sampling(-1) == {"max_tokens": 3, "end_id": -1}


def parameters(**values: str) -> Parameters:
    config = {"name": "m", "parameters": {key: {"string_value": value} for key, value in values.items()}}
    return Parameters(json.dumps(config), folder=Path("/repository/m/1"))


def test_parameters_are_read_by_type() -> None:
    found = parameters(yes="True", no="0", count="12", none="", relative="../e", absolute="/e")

    assert (found.boolean("yes"), found.boolean("no")) == (True, False)
    assert (found.integer("count"), found.optional_integer("none")) == (12, None)
    assert found.path("relative") == Path("/repository/m/e")
    assert found.path("absolute") == Path("/e")


@pytest.mark.parametrize("name", ["${engine}", " a ", "{{ b }}"])
def test_a_folder_may_have_any_name_that_a_template_could_have_left(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    assert parameters(key=f"{tmp_path}/{name}").path("key") == tmp_path / name
    with pytest.raises(ParameterError, match="left over from a template"):
        parameters(key=f"{tmp_path}/${{other}}").path("key")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("${flag}", "model m, parameter key: '\\$\\{flag\\}' is left over from a template"),
        ("maybe", "model m, parameter key: found 'maybe', expected true or false"),
    ],
)
def test_a_leftover_or_a_typo_never_becomes_a_default(value: str, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parameters(key=value).boolean("key")
    with pytest.raises(ParameterError, match="missing"):
        parameters().text("key")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([b"x" * 8_000_000], "has a word of 8000000 bytes, expected at most 4096"),
        ([b"x"] * 1_000_000, "has 1000000 words, expected at most 1024"),
        ([b"x" * 4096] * 17, "has words of 69632 bytes together, expected at most 65536"),
    ],
)
def test_words_that_are_too_many_or_too_long_are_refused_by_name(words: list[bytes], told: str) -> None:
    with pytest.raises(FieldError, match=f"STOP_WORDS_DICT.*{told}"):
        check_words(words, field="STOP_WORDS_DICT")


def test_words_at_the_bounds_are_taken() -> None:
    check_words([b"x" * 4096] * 16, field="STOP_WORDS_DICT")
    check_words([b""] * 1024, field="STOP_WORDS_DICT")
    check_words([], field="STOP_WORDS_DICT")


def test_words_given_as_ids_have_the_same_bounds() -> None:
    many = np.zeros((2, 2000), np.int32)
    many[1] = np.arange(1, 2001)
    with pytest.raises(FieldError, match=r"stop_words_list.*has 2000 words, expected at most 1024"):
        unpack_words(many, field="stop_words_list")
    with pytest.raises(FieldError, match=r"bad_words_list.*has 70000 ids, expected at most 65536"):
        unpack_words(np.zeros((2, 70_000), np.int32), field="bad_words_list")
