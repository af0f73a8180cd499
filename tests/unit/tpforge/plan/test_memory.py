"""Memory of a plan: weights against what convert plans, the cache by hand and by a documented example."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.blueprint import blueprint_from_config, find_blueprint
from builders.conversion.division import TableLayout
from builders.conversion.planning import plan_rank_files, plan_shards
from builders.families.common.registry import find_family
from scripts.flows.planning.gpu_file import read_gpu_file
from tpforge.dtypes import DType
from tpforge.errors import InputRefused, PlanError, UsageError
from tpforge.plan.hardware.gpus import find_gpu, gpus, make_cluster
from tpforge.plan.memory.kv import KvLayout, LayerKv, kv_layout, kv_tokens, longest_request, max_requests
from tpforge.plan.memory.rank import Settings, rank_memory
from tpforge.plan.models.known import find_known, known_models
from tpforge.quantization import Quantization, find_format
from tpforge.shards.mapping import Mapping
from tpforge.shards.weights import Blueprint, rank_shapes, weight_bytes
from tpforge.units import GIB


def blueprint(name: str) -> Blueprint:
    found = find_known(name)
    assert found is not None
    return blueprint_from_config(found.config, name=name, where=name)


def planned_data_bytes(name: str, mapping: Mapping, *, quantize: str | None = None) -> list[int]:
    """The bytes of tensors in every rank file that convert would write."""
    known = find_known(name)
    assert known is not None
    spec = blueprint(name).model
    layout = TableLayout(name, spec, find_family(known.config["architectures"], where=name))
    quantization = None
    if quantize is not None:
        quantization = Quantization(format=quantize, group_size=find_format(quantize).group_size)
    plan = plan_shards(
        layout, mapping=mapping, pad=True, parallel_embedding_dim=None, quantization=quantization
    )
    return [file.size - len(file.header) for file in plan_rank_files(layout, plan=plan, dtype=spec.dtype)]


@pytest.mark.parametrize("name", [model.name for model in known_models()])
def test_every_known_config_makes_the_parameters_that_the_hub_counts(name: str) -> None:
    known = find_known(name)
    assert known is not None
    assert blueprint(name).num_parameters == known.parameters


@pytest.mark.parametrize(
    ("name", "mapping"),
    [
        ("llama-3.1-8b", Mapping(tp_size=1)),
        ("llama-3.1-8b", Mapping(tp_size=16)),
        ("smollm2-135m", Mapping(tp_size=4)),
        ("smollm2-135m", Mapping(tp_size=2, pp_size=4)),
        ("qwen2.5-0.5b", Mapping(tp_size=8)),
        ("gemma-2-2b", Mapping(tp_size=2)),
        ("mixtral-8x7b", Mapping(tp_size=4, moe_ep_size=2)),
        ("deepseek-v2-lite", Mapping(tp_size=2, pp_size=2)),
    ],
)
def test_weights_are_equal_to_the_byte_to_what_convert_writes(name: str, mapping: Mapping) -> None:
    shapes = rank_shapes(blueprint(name), mapping=mapping)
    dtype = shapes.model.dtype
    planned = planned_data_bytes(name, mapping)
    found = [
        weight_bytes(shapes, stage=mapping.pp_rank(rank), dtype=dtype, weight_format=None)
        for rank in range(mapping.world_size)
    ]
    assert found == planned


@pytest.mark.parametrize("quantize", ["int8_wo", "int4_wo", "fp8_rowwise", "fp8_block", "mxfp4", "nvfp4"])
def test_quantized_weights_are_equal_to_the_byte_with_their_scales(quantize: str) -> None:
    mapping = Mapping(tp_size=2)
    shapes = rank_shapes(blueprint("llama-3.2-1b"), mapping=mapping)
    found = weight_bytes(shapes, stage=0, dtype=shapes.model.dtype, weight_format=quantize)
    assert [found, found] == planned_data_bytes("llama-3.2-1b", mapping, quantize=quantize)


def test_fp8_weights_of_llama_70b_are_a_byte_an_element_but_for_embedding_head_and_norms() -> None:
    shapes = rank_shapes(blueprint("llama-3.1-70b"), mapping=Mapping())
    linear = 80 * (8192 * (8192 + 2 * 1024) + 8192 * 8192 + 3 * 8192 * 28672)
    others = 2 * 128256 * 8192 + 161 * 8192
    scales = 80 * 5 * 8  # qkv, dense, fc, gate, proj: two float32 each
    found = weight_bytes(shapes, stage=0, dtype=DType.BFLOAT16, weight_format="fp8")
    assert found == linear + 2 * others + scales


def test_the_documented_example_gives_259840_tokens_of_70_48_gib_free() -> None:
    # NVIDIA/TensorRT-LLM, docs memory.md: 0.9 of 70.48 GiB, blocks of 64 tokens, 256 KiB per token.
    layout = KvLayout((LayerKv(num_layers=32, bytes_per_token=8192, window=None),), tokens_per_block=64)
    assert layout.bytes_per_token == 256 * 1024
    assert kv_tokens(70.48 * GIB, fraction=0.9, layout=layout) == 259_840


@pytest.mark.parametrize(("tp_size", "heads"), [(1, 8), (2, 4), (4, 2), (8, 1), (16, 1), (64, 1)])
def test_kv_heads_are_divided_then_duplicated_never_less_than_one(tp_size: int, heads: int) -> None:
    shapes = rank_shapes(blueprint("llama-3.1-70b"), mapping=Mapping(tp_size=tp_size))
    layout = kv_layout(shapes, stage=0, kv_dtype="bfloat16")
    assert layout.bytes_per_token == 80 * 2 * heads * 128 * 2
    assert kv_layout(shapes, stage=0, kv_dtype="fp8").bytes_per_token == 80 * 2 * heads * 128
    assert kv_layout(shapes, stage=0, kv_dtype="nvfp4").bytes_per_token == 80 * 2 * heads * 128 * 9 // 16


def test_padded_kv_heads_take_cache_too() -> None:
    shapes = rank_shapes(blueprint("smollm2-135m"), mapping=Mapping(tp_size=2))
    assert kv_layout(shapes, stage=0, kv_dtype="bfloat16").bytes_per_token == 30 * 2 * 2 * 64 * 2


def test_latent_attention_caches_the_same_on_every_rank() -> None:
    for tp_size in (1, 4):
        shapes = rank_shapes(blueprint("deepseek-v2-lite"), mapping=Mapping(tp_size=tp_size))
        assert kv_layout(shapes, stage=0, kv_dtype="bfloat16").bytes_per_token == 27 * (512 + 64) * 2


def test_a_sliding_window_bounds_the_cache_of_its_layers_where_the_runtime_is_told() -> None:
    """TensorRT-LLM, resource_manager.py: without max_attention_window every layer keeps max_seq_len."""
    shapes = rank_shapes(blueprint("gemma-2-9b"), mapping=Mapping())
    layout = kv_layout(shapes, stage=0, kv_dtype="bfloat16", is_windowed=True)
    per_layer = 2 * 8 * 256 * 2
    assert layout.request_bytes(8192) == per_layer * 21 * (4096 + 8192)
    assert layout.request_bytes(33) == per_layer * 42 * 64
    whole = kv_layout(shapes, stage=0, kv_dtype="bfloat16")
    assert whole.request_bytes(8192) == per_layer * 42 * 8192
    # What is kept beyond a window is not read.
    assert whole.read_bytes(8192) == layout.read_bytes(8192) == per_layer * 21 * (4096 + 8192)


@pytest.mark.parametrize(("name", "full", "sliding", "window"), [("gpt-oss-120b", 18, 18, 128)])
def test_so_it_does_with_models_of_the_table_of_architectures(
    name: str, full: int, sliding: int, window: int
) -> None:
    shapes = rank_shapes(find_blueprint(name), mapping=Mapping())
    per_layer = 2 * 8 * 64 * 2
    bounded = kv_layout(shapes, stage=0, kv_dtype="bfloat16", is_windowed=True)
    assert bounded.request_bytes(4096) == per_layer * (full * 4096 + sliding * window)
    assert kv_layout(shapes, stage=0, kv_dtype="bfloat16").request_bytes(4096) == per_layer * 36 * 4096


def test_pipeline_stages_hold_the_cache_of_their_own_layers() -> None:
    shapes = rank_shapes(blueprint("llama-3.1-8b"), mapping=Mapping(pp_size=3))
    sizes = [kv_layout(shapes, stage=stage, kv_dtype="fp8").bytes_per_token for stage in range(3)]
    assert sizes == [11 * 2048, 11 * 2048, 10 * 2048]


def test_requests_and_the_longest_request_follow_from_whole_blocks() -> None:
    layout = KvLayout((LayerKv(1, 10, None),), tokens_per_block=32)
    assert max_requests(3 * 640, request_tokens=33, layout=layout) == 3
    assert longest_request(649, layout=layout, limit=1000) == 64
    assert longest_request(10**6, layout=layout, limit=1000) == 1000
    assert longest_request(0, layout=layout, limit=1000) == 0


def test_a_rank_without_room_has_no_tokens_and_does_not_fit() -> None:
    shapes = rank_shapes(blueprint("llama-3.1-70b"), mapping=Mapping())
    memory = rank_memory(shapes, gpu=find_gpu("h100"), settings=Settings(DType.BFLOAT16))
    assert (memory.fits, memory.kv_tokens, memory.max_requests(100)) == (False, 0, 0)
    assert memory.free_bytes < 0


def test_the_lines_of_memory_add_up_and_say_where_they_are_from() -> None:
    shapes = rank_shapes(blueprint("llama-3.1-8b"), mapping=Mapping(tp_size=2))
    memory = rank_memory(shapes, gpu=find_gpu("l40s"), settings=Settings(DType.BFLOAT16))
    assert sum(line.num_bytes for line in memory.lines) + memory.free_bytes == memory.gpu.memory_bytes
    assert all(line.formula and line.source for line in memory.lines)
    assert memory.lines[0].basis == "exact"


def test_heads_that_cannot_be_divided_are_refused_without_padding() -> None:
    with pytest.raises(PlanError, match="tp=3"):
        rank_shapes(blueprint("llama-3.1-8b"), mapping=Mapping(tp_size=3), pad=False)


def test_an_unknown_gpu_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InputRefused, match="did you mean h200"):
        find_gpu("h2000")
    assert find_gpu("H100_SXM").name == "h100-sxm"


def test_no_gpu_of_the_table_lacks_its_source() -> None:
    assert len(gpus()) > 20
    assert all(gpu.source for gpu in gpus())


def test_a_link_is_nvlink_only_where_every_server_has_it() -> None:
    assert make_cluster(find_gpu("h100-sxm"), num_gpus=8).link == "nvlink"
    assert make_cluster(find_gpu("a100-pcie"), num_gpus=8).link == "pcie"
    assert make_cluster(find_gpu("a100-pcie"), num_gpus=2, link="nvlink").link == "nvlink"
    with pytest.raises(UsageError, match="no NVLink"):
        make_cluster(find_gpu("l40s"), num_gpus=2, link="nvlink")


def test_a_gpu_file_adds_gpus_and_prices_and_lists_all_its_problems(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        '[[gpu]]\nname = "mine"\ntitle = "Mine"\narchitecture = "Hopper"\nsm = 90\nmemory_gb = 80\n'
        'bandwidth_gb_s = 3000\nfp16_tflops = 900\npcie_gb_s = 64\nsource = "me"\n'
        "[per_gpu_hour]\nmine = 2.5\n"
    )
    own, prices = read_gpu_file(file)
    assert find_gpu("mine", own=own).memory_bytes == round(80 * 0.985 * GIB)
    assert prices.per_gpu_hour == {"mine": 2.5}
    file.write_text('speed = 1\n[[gpu]]\nname = "x"\n')
    with pytest.raises(InputRefused) as caught:
        read_gpu_file(file)
    assert "speed: unknown key" in str(caught.value)
    assert "gpu 1: sm" in str(caught.value)
