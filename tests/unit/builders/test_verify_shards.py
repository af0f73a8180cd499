"""builders.proof.verify: right shards pass, and every kind of wrong one is caught and named."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.conversion.convert import Conversion
from builders.proof.verify import ShardReport, verify_shards
from builders.sources import open_source
from tests.support.conversions import Tensors, convert_to
from tests.support.tiny import write_tiny_llama


def verify(model: Path, out: Path, conversion: Conversion) -> ShardReport:
    with open_source(str(model)) as source:
        return verify_shards(source, out, plan=conversion.plan, dtype=conversion.dtype)


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (4, 1), (8, 1), (3, 1), (2, 3), (4, 2)])
@pytest.mark.parametrize("dim", [None, 0])
def test_a_true_conversion_has_no_problems(tmp_path: Path, sizes: tuple[int, int], dim: int | None) -> None:
    model = write_tiny_llama(
        tmp_path / "model", num_layers=3, num_heads=9, num_kv_heads=3, head_size=4, vocab_size=257,
        intermediate_size=30, bias=True, values="arange",
    )  # fmt: skip
    conversion = convert_to(
        tmp_path / "out", model, tp_size=sizes[0], pp_size=sizes[1], parallel_embedding_dim=dim
    )
    report = verify(model, tmp_path / "out", conversion)
    assert report.problems == ()
    assert report.num_tensors == sizes[0] * (3 * 9 + 3)


def test_a_cast_conversion_is_compared_in_the_engines_type(tmp_path: Path) -> None:
    from tpforge.dtypes import DType

    model = write_tiny_llama(tmp_path / "model", tie=True)
    conversion = convert_to(
        tmp_path / "out", model, tp_size=4, dtype=DType.BFLOAT16, parallel_embedding_dim=1
    )
    assert verify(model, tmp_path / "out", conversion).problems == ()


def swap_heads(tensors: Tensors) -> None:
    qkv = tensors["transformer.layers.0.attention.qkv.weight"]
    qkv[:8] = qkv[:8].roll(4, dims=0)


def shift_vocabulary(tensors: Tensors) -> None:
    tensors["lm_head.weight"] = tensors["lm_head.weight"].roll(1, dims=0)


def exchange_gate_and_up(tensors: Tensors) -> None:
    fc, gate = "transformer.layers.1.mlp.fc.weight", "transformer.layers.1.mlp.gate.weight"
    tensors[fc], tensors[gate] = tensors[gate], tensors[fc]


def dirty_padding(tensors: Tensors) -> None:
    tensors["transformer.layers.0.mlp.proj.weight"][3, -1] = 1e-9


def one_copied_norm(tensors: Tensors) -> None:
    tensors["transformer.layers.0.input_layernorm.weight"][5] += 1


def negative_zero(tensors: Tensors) -> None:
    tensors["transformer.layers.0.mlp.fc.weight"][-1] = -0.0


def swap_dense_columns(tensors: Tensors) -> None:
    dense = tensors["transformer.layers.1.attention.dense.weight"]
    dense[:, [0, 1]] = dense[:, [1, 0]]


def drop_a_tensor(tensors: Tensors) -> None:
    del tensors["transformer.layers.1.post_layernorm.weight"]


def add_a_tensor(tensors: Tensors) -> None:
    tensors["rotary_inv_freq"] = torch.zeros(4)


def another_type(tensors: Tensors) -> None:
    name = "transformer.layers.0.mlp.fc.weight"
    tensors[name] = tensors[name].to(torch.bfloat16)


def another_shape(tensors: Tensors) -> None:
    name = "transformer.layers.0.mlp.fc.weight"
    tensors[name] = torch.cat([tensors[name], tensors[name][:1]])


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (swap_heads, "layers.0.attention.qkv.weight: model.layers.0.self_attn.q_proj.weight: 512 of 2304"),
        (shift_vocabulary, "lm_head.weight: lm_head.weight: "),
        (exchange_gate_and_up, "layers.1.mlp.fc.weight: model.layers.1.mlp.gate_proj.weight: "),
        (exchange_gate_and_up, "layers.1.mlp.gate.weight: model.layers.1.mlp.up_proj.weight: "),
        (dirty_padding, "mlp.proj.weight: model.layers.0.mlp.down_proj.weight: 1 values of the padding"),
        (one_copied_norm, "input_layernorm.weight: the copy on rank 3 differs from rank 0's"),
        (negative_zero, "layers.0.mlp.fc.weight: model.layers.0.mlp.gate_proj.weight: 64 values of the"),
        (swap_dense_columns, "layers.1.attention.dense.weight: model.layers.1.self_attn.o_proj.weight: "),
        (drop_a_tensor, "rank3: transformer.layers.1.post_layernorm.weight: missing"),
        (add_a_tensor, "rank3: rotary_inv_freq: not expected"),
        (another_type, "layers.0.mlp.fc.weight: found type BF16, F32, expected F32"),
        (another_shape, "layers.0.mlp.fc.weight: found shapes"),
    ],
)
def test_a_wrong_shard_is_caught(tmp_path: Path, break_it: Callable[[Tensors], None], words: str) -> None:
    model = write_tiny_llama(
        tmp_path / "model", num_heads=9, num_kv_heads=3, head_size=4, vocab_size=258,
        intermediate_size=30, values="arange",
    )  # fmt: skip
    conversion = convert_to(tmp_path / "out", model, tp_size=4)
    # Rank 3 holds only padding of heads, so those are broken on rank 1.
    rank = 1 if break_it in (swap_heads, swap_dense_columns) else 3
    path = tmp_path / "out" / f"rank{rank}.safetensors"
    tensors = load_file(path)
    break_it(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    problems = verify(model, tmp_path / "out", conversion).problems
    assert any(words in problem for problem in problems), problems


def test_a_duplicated_kv_head_that_differs_is_caught(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", values="arange")  # 4 heads, 2 KV heads
    conversion = convert_to(tmp_path / "out", model, tp_size=4)
    path = tmp_path / "out" / "rank3.safetensors"
    tensors = load_file(path)
    tensors["transformer.layers.0.attention.qkv.weight"][-1, -1] += 1  # the last value of v
    save_file(tensors, path)
    problems = verify(model, tmp_path / "out", conversion).problems
    assert problems == (
        "rank0-3: transformer.layers.0.attention.qkv.weight: "
        "the duplicated KV head on rank 3 differs from rank 2's",
    )


def test_two_stages_exchanged_are_caught(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", num_layers=4, values="arange")
    conversion = convert_to(tmp_path / "out", model, pp_size=4)
    first, second = (tmp_path / "out" / f"rank{rank}.safetensors" for rank in (1, 2))
    held, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(held)
    problems = verify(model, tmp_path / "out", conversion).problems
    assert any(problem.startswith("rank1-1: transformer.layers.0.mlp.fc.weight:") for problem in problems)


def test_a_wrong_config_is_caught_by_key(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model")
    conversion = convert_to(tmp_path / "out", model)
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    config["rotary_base"] = 500000.0
    del config["norm_epsilon"]
    config["surprise"] = 1
    path.write_text(json.dumps(config))
    assert verify(model, tmp_path / "out", conversion).problems == (
        "config.json: norm_epsilon: missing",
        "config.json: rotary_base: found 500000.0, expected 10000.0",
        "config.json: surprise: not expected",
    )


def test_missing_and_stale_rank_files_are_caught(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model")
    conversion = convert_to(tmp_path / "out", model, tp_size=2)
    (tmp_path / "out" / "rank1.safetensors").rename(tmp_path / "out" / "rank2.safetensors")
    assert verify(model, tmp_path / "out", conversion).problems == (
        "rank1.safetensors: missing",
        "rank2.safetensors: does not belong to this checkpoint",
    )


def test_a_truncated_rank_file_is_reported_not_raised(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model")
    conversion = convert_to(tmp_path / "out", model)
    path = tmp_path / "out" / "rank0.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    (problem,) = verify(model, tmp_path / "out", conversion).problems
    assert "rank0.safetensors: truncated: found" in problem
