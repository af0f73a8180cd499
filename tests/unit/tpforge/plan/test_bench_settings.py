"""The limits that trtllm-bench sets, against what its own pages and logs print of them."""

from __future__ import annotations

import pytest

from benchmarks.bench_settings import BenchSettings, by_rule, of_table
from benchmarks.published import rows
from builders.blueprint import find_blueprint
from tpforge.plan.hardware.gpus import find_gpu
from tpforge.runtime import Runtime
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import rank_shapes


def ruled(
    model: str,
    gpu: str,
    lengths: tuple[int, int],
    *,
    mapping: Mapping,
    runtime: Runtime = "tensorrt",
    bits: float = 8,
) -> BenchSettings:
    blueprint = find_blueprint(model)
    return by_rule(
        rank_shapes(blueprint, mapping=mapping),
        parameters=blueprint.num_parameters,
        gpu=find_gpu(gpu),
        weight_bits=bits,
        kv_bits=8,
        lengths=lengths,
        runtime=runtime,
    )


@pytest.mark.parametrize(("model", "tp_size"), [("llama-3.1-8b", 1), ("llama-3.1-405b", 8)])
def test_the_rule_gives_what_release_0_17_printed_on_h200_at_128_128(model: str, tp_size: int) -> None:
    """NVIDIA/TensorRT-LLM 0.17, docs perf-benchmarking.md: 4096 requests, 8192 tokens, for both models."""
    found = ruled(model, "h200-sxm", (128, 128), mapping=Mapping(tp_size=tp_size))
    assert found == BenchSettings(max_batch_size=4096, max_num_tokens=8192)


def test_a_starved_engine_gets_the_least_of_both() -> None:
    found = ruled("llama-3.1-70b", "h100-sxm", (2048, 2048), mapping=Mapping())
    assert found == BenchSettings(max_batch_size=64, max_num_tokens=2048)


def test_a_pipeline_divides_its_requests_and_a_pass_of_the_llm_api_holds_a_whole_prompt() -> None:
    found = ruled(
        "llama-3.1-70b", "rtx-pro-6000", (5000, 500), mapping=Mapping(pp_size=8), runtime="pytorch", bits=4
    )
    # About 810 requests of 5500 tokens in the cache of 8 GPUs: 102 in each of 8 parts, in steps of 32.
    assert found == BenchSettings(max_batch_size=128, max_num_tokens=5128)


def test_rows_of_0_14_have_the_settings_of_its_table_and_of_no_other_release() -> None:
    assert of_table("llama-3.1-70b", tp_size=8, request_tokens=4224) == BenchSettings(8192, 16384)
    assert of_table("llama-3.1-70b", tp_size=2, request_tokens=4096) == BenchSettings(2048, 1024)
    for row in rows("check"):
        settings = row.engine.settings
        assert settings.max_seq_len == row.load.request_tokens
        if (row.release, row.model, row.tp) == ("0.14", "llama-3.1-70b", 8):
            assert settings.max_batch_size == 8192
        if row.release != "0.14":
            assert settings.max_batch_size <= 4096
