"""The gate: format x SM x runtime x version x architecture x shape, and the nearest format that works."""

import pytest

from tpforge.errors import InputRefused, UsageError
from tpforge.quantization import config_field, find_format, formats
from tpforge.quantization_gate import Linear, Question, judge, refuse_two, require

# SmolLM2-135M: 576 hidden, 9 query and 3 KV heads of 64, MLP 1536.
SMOLLM2 = (
    Linear("attention.qkv", 960, 576),
    Linear("attention.dense", 576, 576),
    Linear("mlp.fc", 1536, 576),
    Linear("mlp.proj", 576, 1536),
)


@pytest.mark.parametrize(
    ("question", "reason", "nearest"),
    [
        pytest.param(
            Question("int4_awq", "tensorrt", sm=90, linears=SMOLLM2),
            "attention.qkv has 576 columns on a rank, expected a multiple of 128",
            "int4_wo",
            id="INT4 AWQ on 576 columns",
        ),
        pytest.param(
            Question("fp8", "tensorrt", sm=80),
            "SM80 is not supported; SM89, SM90, SM100, SM103, SM120 are",
            "int8_sq",
            id="FP8 for SM80",
        ),
        pytest.param(
            Question("gptq", "pytorch", sm=90), "no code path that loads GPTQ", "int4_awq", id="GPTQ, LLM API"
        ),
        pytest.param(
            Question("gptq", "pytorch", sm=90, linears=SMOLLM2),
            "no code path that loads GPTQ",
            "int4_wo",
            id="GPTQ, LLM API, columns that AWQ cannot take either",
        ),
        pytest.param(
            Question("int8_sq", "pytorch", sm=80),
            "unsupported quant mode",
            "int8_wo",
            id="SmoothQuant, LLM API",
        ),
        pytest.param(
            Question("int8_w8a8", "pytorch", sm=90),
            "would run the INT8 weights as FP8",
            "int8_wo",
            id="compressed-tensors W8A8, LLM API",
        ),
        pytest.param(
            Question("nvfp4", "tensorrt", sm=90), "SM90 is not supported", "int4_awq", id="NVFP4 for H100"
        ),
        pytest.param(
            Question("nvfp4", "tensorrt", sm=100, architecture="Qwen2ForCausalLM"),
            "Qwen2ForCausalLM is not supported; LlamaForCausalLM and MixtralForCausalLM are",
            "int4_awq",
            id="NVFP4 of a family that TensorRT engines do not have it for",
        ),
        pytest.param(
            Question("fp8_rowwise", "tensorrt", sm=100), "SM100 is not supported", "fp8", id="rowwise, B200"
        ),
        pytest.param(
            Question("fp8", "tensorrt", sm=120, version="0.18.2"),
            "SM120 needs 0.19 or later, found 0.18.2",
            "fp8_rowwise",
            id="FP8 on SM120 before it came",
        ),
        pytest.param(
            Question("int8_wo", "tensorrt", version="1.3.0rc22"),
            "removed in 1.3; use 1.2.1 or --runtime pytorch",
            None,
            id="a version without engines",
        ),
        pytest.param(
            Question("int8_wo", "pytorch", sm=90, kv_cache="int8"),
            "the LLM API has no INT8 KV cache",
            "int8_wo --kv-cache fp8",
            id="INT8 KV cache, LLM API: no format of weights helps",
        ),
        pytest.param(
            Question("gptq", "tensorrt", sm=90, group_size=128, linears=SMOLLM2),
            "expected a multiple of 128",
            "int4_wo",
            id="a group across the ranks",
        ),
    ],
)
def test_the_gate_refuses_with_the_reason_and_the_nearest_that_works(
    question: Question, reason: str, nearest: str | None
) -> None:
    verdict = judge(question)

    assert any(reason in problem for problem in verdict.problems), verdict.problems
    assert verdict.nearest == nearest
    with pytest.raises(InputRefused) as error:
        require(question)
    assert (f"use {nearest}" if nearest else "leave it unquantized") in str(error.value)


def test_what_is_named_as_nearest_passes_the_same_gate() -> None:
    for row in formats():
        for runtime in ("tensorrt", "pytorch"):
            for sm in (75, 80, 86, 89, 90, 100, 103, 120):
                question = Question(row.name, runtime, sm=sm, linears=SMOLLM2)  # type: ignore[arg-type]
                if nearest := judge(question).nearest:
                    again = Question(nearest, runtime, sm=sm, linears=SMOLLM2)  # type: ignore[arg-type]
                    assert judge(again).works, (question, nearest)


def test_all_reasons_are_said_at_once() -> None:
    verdict = judge(Question("int4_awq", "pytorch", sm=100, linears=SMOLLM2))

    assert len(verdict.problems) == 1 + 3


def test_gptq_in_groups_that_divide_the_columns_passes() -> None:
    assert judge(Question("gptq", "tensorrt", sm=90, group_size=64, linears=SMOLLM2)).works


def test_an_unlisted_gpu_passes_with_a_note() -> None:
    assert require(Question("int8_wo", "tensorrt", sm=100)) == (
        "INT8 weight-only: TensorRT-LLM's support matrix neither lists SM100 nor rules it out",
    )


def test_the_reference_runtime_loads_every_format_on_any_machine() -> None:
    assert [row.name for row in formats() if not judge(Question(row.name, "reference")).works] == []


def test_two_quantizations_at_once_are_refused() -> None:
    assert "quantized already (gptq), and int8_wo is asked for" in str(
        refuse_two("gptq", "int8_wo", where="model")
    )


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'int3' is unknown; known are int8_wo, int4_wo"):
        find_format("int3")


def test_config_json_declares_nothing_for_an_unquantized_engine() -> None:
    assert config_field(None) == {}
