"""The contract: the tensors of upstream's inflight_batcher_llm, and what our ensemble makes of them."""

from __future__ import annotations

import pytest

from tpforge.errors import UsageError
from triton_repo.render.contract import MODELS, TensorContract, ensemble_steps, expected_tensors


def test_the_ensemble_takes_text_and_a_token_count_and_everything_else_is_optional() -> None:
    required = [tensor.name for tensor in expected_tensors("ensemble").inputs if not tensor.optional]

    assert required == ["text_input", "max_tokens"]


@pytest.mark.parametrize(
    ("model", "num_inputs", "num_outputs"),
    [
        ("preprocessing", 14, 20),
        ("tensorrt_llm", 62, 21),
        ("postprocessing", 2, 1),
        ("ensemble", 36, 19),
        ("tensorrt_llm_bls", 42, 19),
    ],
)
def test_every_tensor_of_upstream_is_there(model: str, num_inputs: int, num_outputs: int) -> None:
    contract = expected_tensors(model)

    assert (len(contract.inputs), len(contract.outputs)) == (num_inputs, num_outputs)


def test_a_tensor_has_upstreams_type_dims_and_flags() -> None:
    tensors = {tensor.name: tensor for tensor in expected_tensors("tensorrt_llm").inputs}

    assert tensors["stop_words_list"] == TensorContract(
        "stop_words_list", "INT32", (2, -1), optional=True, ragged=True
    )
    assert tensors["request_output_len"] == TensorContract("request_output_len", "INT32", (1,), scalar=True)


def test_text_is_bytes_on_the_wire_and_a_string_in_the_config() -> None:
    text = expected_tensors("ensemble").inputs[0]

    assert (text.name, text.datatype, text.config_datatype) == ("text_input", "BYTES", "TYPE_STRING")


def test_the_ensemble_joins_tensors_of_one_type() -> None:
    ensemble = expected_tensors("ensemble")
    types = {tensor.name: tensor.datatype for tensor in (*ensemble.inputs, *ensemble.outputs)}
    for step in ensemble_steps():
        member = expected_tensors(step.model)
        inputs = {tensor.name: tensor.datatype for tensor in member.inputs}
        outputs = {tensor.name: tensor.datatype for tensor in member.outputs}
        for name, own in step.outputs:
            assert types.setdefault(own, outputs[name]) == outputs[name], name
        for name, own in step.inputs:
            assert types[own] == inputs[name], name


def test_every_input_of_the_ensemble_goes_to_a_member_and_every_output_comes_from_one() -> None:
    ensemble = expected_tensors("ensemble")
    taken = {own for step in ensemble_steps() for _, own in step.inputs}
    given = {own for step in ensemble_steps() for _, own in step.outputs}

    assert {tensor.name for tensor in ensemble.inputs} == {
        name for name in taken - given if not name.startswith("_")
    }
    assert {tensor.name for tensor in ensemble.outputs} == {
        name for name in given if not name.startswith("_")
    }


def test_bls_takes_what_the_ensemble_takes_and_images_and_drafts() -> None:
    ensemble = {tensor.name for tensor in expected_tensors("ensemble").inputs}
    bls = {tensor.name for tensor in expected_tensors("tensorrt_llm_bls").inputs}

    assert bls - ensemble == {
        "image_input",
        "image_bytes_input",
        "image_url_input",
        "video_bytes_input",
        "num_draft_tokens",
        "use_draft_logits",
    }
    assert ensemble <= bls


def test_an_unknown_model_is_a_usage_error_that_lists_the_known() -> None:
    with pytest.raises(UsageError, match=", ".join(MODELS)):
        expected_tensors("tensorrt")
