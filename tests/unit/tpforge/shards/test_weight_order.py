"""In which order INT4 must lie: by format, runtime and GPU, and which matrices it fits."""

from __future__ import annotations

from typing import Any

import pytest

from tpforge.dtypes import DType
from tpforge.errors import UsageError
from tpforge.quantization_gate import Linear, Question, judge
from tpforge.shards.weight_order import order_for, order_problems


def problems(*linears: Linear, **changes: Any) -> list[str]:
    values: dict[str, Any] = {
        "order": "sm80",
        "group_size": 128,
        "tp_size": 4,
        "dtype": DType.FLOAT16,
        "has_experts": False,
        "row_biases": (),
    }
    return list(order_problems(linears, **(values | changes)))


def test_sizes_of_a_rank_that_upstream_would_enlarge_are_named() -> None:
    # Llama 2 7B: 11008 columns are no multiple of 4 x 128.
    assert problems(Linear("mlp.fc", 2752, 4096)) == [
        "mlp.fc has 2752 rows on a rank; TensorRT-LLM's are multiples of 128 (groups of 128, tp=4), "
        "and it would enlarge the matrix"
    ]
    assert problems(Linear("mlp.proj", 4096, 2752))[0].startswith("mlp.proj has 2752 columns on a rank")
    # Llama 3 8B is whole at tp=4, in both orders.
    llama = [Linear("attention.qkv", 1536, 4096), Linear("attention.dense", 4096, 1024)]
    llama += [Linear("mlp.fc", 3584, 4096), Linear("mlp.proj", 4096, 3584)]
    assert problems(*llama) == problems(*llama, order="modelopt") == []
    assert problems(Linear("mlp.fc", 100, 100), order="plain") == []


def test_experts_and_row_biases_are_refused_where_they_would_be_wrong() -> None:
    assert "experts" in problems(has_experts=True)[0]
    biases = ("mlp.proj.bias", "mlp.proj.bias")
    assert problems(row_biases=biases) == [
        "mlp.proj.bias: TensorRT-LLM would add it 4 times, once a rank; use tp=1"
    ]
    # trtllm-build clears those of the other ranks itself in AWQ.
    assert problems(row_biases=biases, order="modelopt") == problems(row_biases=biases, tp_size=1) == []


def test_the_order_follows_from_format_runtime_and_gpu() -> None:
    assert [order_for("gptq", runtime="tensorrt", sm=sm) for sm in (75, 80, 86, 89, 90)] == [
        *("sm80", "sm80", "sm80", "sm80", "sm90"),
    ]
    assert order_for("int4_awq", runtime="tensorrt", sm=None) == "modelopt"
    assert (
        order_for("awq", runtime="reference", sm=90) == order_for("fp8", runtime="tensorrt", sm=90) == "plain"
    )
    with pytest.raises(UsageError, match="give --sm"):
        order_for("awq", runtime="tensorrt", sm=None)


def test_the_gate_lets_a_gpu_pass_only_where_its_order_is_known() -> None:
    for name in ("gptq", "awq"):
        works = [sm for sm in range(50, 130) if judge(Question(name, "tensorrt", sm=sm)).works]
        assert works == [75, 80, 86, 89, 90]
    assert judge(Question("int4_awq", "tensorrt", sm=100)).works
