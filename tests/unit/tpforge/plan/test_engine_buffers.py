"""What a compiled engine takes beside weights and cache, against lines that TensorRT-LLM printed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.buffers import RECENT, BufferRow, buffer_rows
from builders.blueprint import find_blueprint
from tpforge.dtypes import DType
from tpforge.plan.hardware.gpus import find_gpu
from tpforge.plan.memory.rank import RankMemory, Settings, rank_memory
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import rank_shapes
from tpforge.units import GIB, MIB


def printed(line: str, *, recent: bool) -> list[BufferRow]:
    return [row for row in buffer_rows() if row.line == line and (row.release in RECENT) is recent]


def memory(settings: Settings, *, mapping: Mapping | None = None) -> RankMemory:
    shapes = rank_shapes(find_blueprint("llama-3.1-70b"), mapping=mapping or Mapping(tp_size=8))
    return rank_memory(shapes, gpu=find_gpu("h100-sxm"), settings=settings)


def lines(found: RankMemory) -> dict[str, int]:
    return {line.name: line.num_bytes for line in found.lines}


def test_activations_are_those_that_engines_of_recent_releases_print() -> None:
    rows = printed("activations", recent=True)
    assert len(rows) == 4
    assert all(abs(row.error) < 0.0005 for row in rows)


def test_what_older_engines_took_more_is_known_and_not_hidden() -> None:
    errors = {row.release: row.error for row in printed("activations", recent=False)}
    expected = {"0.12": -0.003, "0.11": -0.363, "0.9": -0.213}
    assert errors == {release: pytest.approx(error, abs=0.001) for release, error in expected.items()}


def test_buffers_and_decoder_are_within_a_tenth_of_what_recent_engines_print() -> None:
    (runtime,), (decoder,) = printed("runtime buffers", recent=True), printed("decoder", recent=True)
    assert abs(runtime.error) < 0.1
    assert abs(decoder.error) < 0.05


def test_slots_that_no_request_uses_take_the_memory_of_the_cache() -> None:
    """max_batch_size 8192, as trtllm-bench set for a 70B over 8 GPUs in 0.14: a third of what was free."""
    least = Settings(DType.FLOAT16, max_batch_size=256, max_num_tokens=2048, max_seq_len=4224)
    most = replace(least, max_batch_size=8192, max_num_tokens=16384)
    few, many = memory(least), memory(most)
    words = 128256 * 8192
    assert lines(many)["decoder"] == 16 * (words + 8192 * 4224)
    assert lines(many)["runtime buffers"] == 8 * words + 4 * 8192 * 4224
    assert few.free_bytes - many.free_bytes > 25 * GIB


def test_sampling_is_on_the_last_stage_and_the_llm_api_has_no_decoder() -> None:
    settings = Settings(DType.FLOAT16, max_batch_size=512, max_seq_len=1024)
    staged = memory(settings, mapping=Mapping(pp_size=4))
    assert staged.stage == 3
    api = lines(memory(replace(settings, runtime="pytorch")))
    assert "decoder" not in api
    assert api["logits"] == 4 * 512 * 128256


def test_a_product_on_fp8_keeps_its_output_before_it_is_quantized() -> None:
    settings = Settings(DType.FLOAT16, max_batch_size=64, max_num_tokens=4096)
    floats, fp8 = (
        lines(memory(replace(settings, weight_format=one)))["activations"] for one in (None, "fp8")
    )
    assert fp8 - floats == 2 * 4096 * (28672 // 8 + 8192 // 2)
    assert floats == 2 * 4096 * (2 * 8192 + 2 * 28672 // 8) + 32 * MIB
