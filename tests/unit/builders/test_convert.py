"""builders.conversion.convert: rank files against an independent computation over numbered weights."""

import hashlib
import json
import shutil
import signal
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from builders.conversion import rank_writing
from builders.sources import open_source
from tests.support.conversions import (
    assert_equal,
    convert_to,
    expected_rank,
    load_ranks,
    load_source,
)
from tests.support.forked import run_forked
from tests.support.interrupted import convert_killed
from tests.support.tiny import write_tiny_llama
from tpforge.dtypes import DType
from tpforge.errors import EnvironmentUnusable, InputRefused, PlanError, UsageError


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def chunked(count: int, tp_size: int) -> list[list[int | None]]:
    """Heads 0..count over the ranks: split, or each repeated consecutively."""
    if tp_size > count:
        return [[rank * count // tp_size] for rank in range(tp_size)]
    return [list(part) for part in torch.arange(count).reshape(tp_size, -1).tolist()]


@pytest.mark.parametrize("worth", [0, rank_writing._WORTH_A_THREAD], ids=["on threads", "on none"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tp_size", [1, 2, 4, 8])
def test_every_value_lies_where_the_format_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tp_size: int, bias: bool, worth: int
) -> None:
    monkeypatch.setattr(rank_writing, "_WORTH_A_THREAD", worth)
    model = write_tiny_llama(
        tmp_path / "model", num_heads=8, head_size=8, values="arange", bias=bias, num_files=2
    )
    convert_to(tmp_path / "out", model, tp_size=tp_size)
    source, config = load_source(model), config_of(model)
    ranks = load_ranks(tmp_path / "out")
    assert len(ranks) == tp_size
    for rank, found in enumerate(ranks):
        expected = expected_rank(
            source,
            config,
            tp_rank=rank,
            tp_size=tp_size,
            layers=range(2),
            query_heads=chunked(8, tp_size)[rank],
            kv_heads=chunked(2, tp_size)[rank],
        )
        assert_equal(found, expected)


@pytest.mark.parametrize(
    ("heads", "tp_size", "queries", "kv"),
    [
        ((9, 3), 2, [[0, 1, 2, 3, 4, 5], [6, 7, 8, None, None, None]], [[0, 1], [2, None]]),
        (
            (9, 3),
            4,
            [[0, 1, 2], [3, 4, 5], [6, 7, 8], [None, None, None]],
            [[0], [1], [2], [None]],
        ),
        (
            (28, 4),
            8,
            [
                [7 * group + member if member < 7 else None for member in range(first, first + 4)]
                for group in range(4)
                for first in (0, 4)
            ],
            [[group] for group in range(4) for _ in range(2)],
        ),
    ],
)
def test_padded_heads_are_zero_and_meet_zero_columns(
    tmp_path: Path,
    heads: tuple[int, int],
    tp_size: int,
    queries: list[list[int | None]],
    kv: list[list[int | None]],
) -> None:
    model = write_tiny_llama(
        tmp_path / "model",
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_size=4,
        hidden_size=16,
        intermediate_size=30,
        values="arange",
    )
    conversion = convert_to(tmp_path / "out", model, tp_size=tp_size)
    source, config = load_source(model), config_of(model)
    for rank, found in enumerate(load_ranks(tmp_path / "out")):
        expected = expected_rank(
            source,
            config,
            tp_rank=rank,
            tp_size=tp_size,
            layers=range(2),
            query_heads=queries[rank],
            kv_heads=kv[rank],
        )
        assert_equal(found, expected)
    written = config_of(tmp_path / "out")
    assert written["num_attention_heads"] == sum(len(rank) for rank in queries)
    assert written["head_size"] == 4
    assert written["intermediate_size"] == -(-30 // tp_size) * tp_size
    assert any("padded with zero heads" in note for note in conversion.notes)


def test_uneven_stages_hold_their_layers_and_only_the_ends_hold_the_vocabulary(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", num_layers=5, values="arange")
    convert_to(tmp_path / "out", model, tp_size=2, pp_size=3)
    source, config = load_source(model), config_of(model)
    for rank, found in enumerate(load_ranks(tmp_path / "out")):
        stage = rank // 2
        expected = expected_rank(
            source,
            config,
            tp_rank=rank % 2,
            tp_size=2,
            layers=[range(2), range(2, 4), range(4, 5)][stage],
            query_heads=chunked(4, 2)[rank % 2],
            kv_heads=chunked(2, 2)[rank % 2],
            first=stage == 0,
            last=stage == 2,
        )
        assert_equal(found, expected)


@pytest.mark.parametrize("dim", [None, 0, 1])
def test_vocab_257_at_tp4_with_each_embedding_layout(tmp_path: Path, dim: int | None) -> None:
    model = write_tiny_llama(tmp_path / "model", vocab_size=257, tie=True, values="arange")
    convert_to(tmp_path / "out", model, tp_size=4, parallel_embedding_dim=dim)
    source, config = load_source(model), config_of(model)
    for rank, found in enumerate(load_ranks(tmp_path / "out")):
        expected = expected_rank(
            source,
            config,
            tp_rank=rank,
            tp_size=4,
            layers=range(2),
            query_heads=[rank],
            kv_heads=[rank // 2],
            parallel_embedding_dim=dim,
        )
        assert_equal(found, expected)
    assert found["lm_head.weight"].shape == (65, 64)
    assert found["lm_head.weight"][-3:].count_nonzero() == 0
    written = config_of(tmp_path / "out")
    assert (written["use_parallel_embedding"], written["embedding_sharding_dim"]) == (
        dim is not None,
        dim or 0,
    )
    assert written["vocab_size"] == 257


@pytest.mark.parametrize("dtype", list(DType))
def test_weights_are_cast_as_torch_casts_them(tmp_path: Path, dtype: DType) -> None:
    model = write_tiny_llama(tmp_path / "model")
    conversion = convert_to(tmp_path / "out", model, dtype=dtype)
    name = "model.layers.1.mlp.down_proj.weight"
    expected = load_source(model)[name].to(getattr(torch, dtype))
    found = load_ranks(tmp_path / "out")[0]["transformer.layers.1.mlp.proj.weight"]
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    assert config_of(tmp_path / "out")["dtype"] == dtype
    assert conversion.notes == (() if dtype is DType.FLOAT32 else (f"weights cast from float32 to {dtype}",))


def test_the_models_own_type_is_the_default(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", dtype="bfloat16", values="arange")
    assert convert_to(tmp_path / "out", model).dtype is DType.BFLOAT16


def test_float16_overflow_is_refused_with_the_tensors_name(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", values="arange")  # numbers beyond 65504
    with pytest.raises(InputRefused, match=r"model\.\S+: the value \S+ does not fit float16"):
        convert_to(tmp_path / "out", model, dtype=DType.FLOAT16, tp_size=2)


def test_the_same_input_gives_the_same_bytes_and_the_records_are_true(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", num_files=3)
    first = convert_to(tmp_path / "a", model, tp_size=4)
    second = convert_to(tmp_path / "b", model, tp_size=4)
    assert first.files == second.files
    assert {file.path for file in first.files} == {path.name for path in (tmp_path / "a").iterdir()}
    for record in first.files:
        content = (tmp_path / "b" / record.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (record.size, record.sha256)
    for record in first.input_files:
        content = (model / record.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (record.size, record.sha256)
    assert {"config.json", "tokenizer.json", "model.safetensors.index.json"} <= {
        record.path for record in first.input_files
    }


def test_headers_are_aligned_and_no_metadata_is_needed(tmp_path: Path) -> None:
    convert_to(tmp_path / "out", write_tiny_llama(tmp_path / "model"), tp_size=2)
    with (tmp_path / "out" / "rank1.safetensors").open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    assert length % 8 == 0
    assert "__metadata__" not in header


def test_a_head_tied_in_config_and_stored_too_is_dropped_with_the_reason(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", tie=True)
    store_head(model, lambda embedding: embedding.clone())
    conversion = convert_to(tmp_path / "out", model)
    assert conversion.dropped == {
        "lm_head.weight": "the same as model.embed_tokens.weight, to which config.json ties it"
    }


def test_a_tied_head_that_differs_is_refused(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", tie=True)
    store_head(model, lambda embedding: embedding + 1)
    with pytest.raises(InputRefused, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        convert_to(tmp_path / "out", model)


def store_head(model: Path, head: Any) -> None:
    from safetensors.torch import save_file

    tensors = load_file(model / "model.safetensors")
    tensors["lm_head.weight"] = head(tensors["model.embed_tokens.weight"])
    save_file(tensors, model / "model.safetensors")


def test_impossible_sizes_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model")
    for number, (arguments, words) in enumerate(
        [
            ({"tp_size": 1000}, "tp=1000 is more than the 4 attention heads"),
            ({"tp_size": 3, "pad": False}, "use tp=1, 2, 4, or --pad"),
            ({"pp_size": 3}, "pp=3 leaves a stage without layers"),
            ({"tp_size": 3, "parallel_embedding_dim": 1}, "hidden size 64 is not a multiple of tp=3"),
        ]
    ):
        out = tmp_path / f"out{number}"
        with pytest.raises(PlanError, match=words):
            convert_to(out, model, **arguments)
        assert list(out.iterdir()) == []
    with pytest.raises(UsageError, match="--parallel-embedding 2: expected 0 or 1"):
        convert_to(tmp_path / "out", model, parallel_embedding_dim=2)


def test_a_disk_too_small_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_llama(tmp_path / "model")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 9, 1024))
    with pytest.raises(EnvironmentUnusable, match=r"the rank files need \S+ KiB, but only 1\.0 KiB are free"):
        convert_to(tmp_path / "out", model)
    assert list((tmp_path / "out").iterdir()) == []


def test_kill_9_in_the_middle_leaves_no_output_and_the_next_run_succeeds(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model")
    out = tmp_path / "out"
    killed = run_forked(convert_killed, model, out, 9, cwd=tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    assert (tmp_path / ".out.partial" / "rank0.safetensors").stat().st_size > 0
    done = run_forked(convert_killed, model, out, -1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"model", "out"}
    assert len(load_ranks(out)) == 2


def test_reading_a_tensor_does_not_read_the_file_into_memory(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", values="arange")
    with open_source(str(model)) as source:
        one, other = (source.read("model.embed_tokens.weight") for _ in range(2))
        assert one.data_ptr() == other.data_ptr(), "both are views of one mapping"
        one[0, 0] = -1.0
    assert load_source(model)["model.embed_tokens.weight"][0, 0] == 1.0
