"""In which order the integers of INT4 matrices lie in rank files: ours, or that of TensorRT-LLM's loader.

It moves no integer; `builders.quantize` does. TensorRT-LLM 1.2 takes weights of W4A16_GPTQ as bytes for the
kernels of one GPU; those of W4A16_AWQ it lays out itself while it builds.
Source: TensorRT-LLM 1.2, quantization/functional.py (preprocess_weights_for_mixed_gemm),
models/modeling_utils.py (preprocess_perlayer_weights) and quantization/layers.py (WeightOnlyGroupwise...).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tpforge.dtypes import DType
from tpforge.errors import UsageError
from tpforge.quantization import Order
from tpforge.quantization_gate import Linear
from tpforge.runtime import Runtime

ORDERED = ("gptq", "awq", "int4_awq")
"""The formats that a loader wants in another order than ours."""
SMALLEST_TILE = 64
ROW_PARALLEL = ("attention.dense", "mlp.proj")


def order_for(format_name: str, *, runtime: Runtime, sm: int | None) -> Order:
    """The order in which `runtime` takes a format; the GPUs must be those that the gate lets pass.

    Raises:
        UsageError: it depends on the GPU, and `sm` is None.
    """
    if runtime != "tensorrt" or format_name not in ORDERED:
        return "plain"
    if format_name == "int4_awq":
        return "modelopt"
    if sm is None:
        raise UsageError(
            f"{format_name} for --runtime tensorrt: the order of the integers in the rank files depends on "
            "the GPU, and there is none here; give --sm, 90 for Hopper"
        )
    return "sm80" if sm < 90 else "sm90"


def order_problems(
    linears: Iterable[Linear],
    *,
    order: Order,
    group_size: int,
    tp_size: int,
    dtype: DType,
    has_experts: bool,
    row_biases: Iterable[str],
) -> Iterator[str]:
    """What keeps matrices from being laid out for TensorRT-LLM; nothing in plain order.

    It enlarges a matrix whose sizes are no multiples of a tile on every rank, which is not written here.
    `row_biases` are the biases of the matrices that are cut by their inputs.
    """
    if order == "plain":
        return
    if dtype is DType.FLOAT32:
        yield "its weights are 16-bit floats in TensorRT-LLM, found float32; give --dtype float16 or bfloat16"
    if has_experts:
        yield "experts: how TensorRT-LLM takes stacks of INT4 matrices is not known here"
    if order != "modelopt" and tp_size > 1:
        for name in sorted(set(row_biases)):
            yield f"{name}: TensorRT-LLM would add it {tp_size} times, once a rank; use tp=1"
    tile = max(SMALLEST_TILE, group_size)
    for linear in linears:
        is_cut_by_rows = linear.name.endswith(ROW_PARALLEL)
        for what, size, is_cut in (
            ("rows", linear.out_features, not is_cut_by_rows),
            ("columns", linear.in_features, is_cut_by_rows),
        ):
            multiple = tile if is_cut else tile * tp_size
            if size % multiple:
                yield (
                    f"{linear.name} has {size} {what} on a rank; TensorRT-LLM's are multiples of {multiple} "
                    f"(groups of {group_size}, tp={tp_size}), and it would enlarge the matrix"
                )
