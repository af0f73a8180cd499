"""Arguments of the LLM API as they are given: checked by the release's table, or passed on past it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.llm_api.arguments import LlmPlan, LlmTarget, plan_llm
from engines.store import read_manifest
from scripts.main import main
from tests.support.tiny import write_tiny_llama
from tpforge.errors import InputRefused, TpforgeError, UsageError
from tpforge.manifest import Limits
from tpforge.shards.mapping import Mapping
from tpforge.trtllm.argument_tables import llm_table, table_names
from tpforge.trtllm.llm_changes import changes, changes_between, reason_gone
from tpforge.trtllm.versions import find_release

LIMITS = Limits(max_batch_size=8, max_input_len=32, max_seq_len=64)


def plan(trtllm: str, given: dict[str, Any], unchecked: dict[str, Any] | None = None) -> LlmPlan:
    target = LlmTarget(find_release(trtllm), Mapping(tp_size=2), LIMITS, sm=90)
    return plan_llm(target, given=given, unchecked=unchecked)


def test_each_release_takes_its_own_arguments() -> None:
    given = {"kv_cache_config.disk_cache_size": 1 << 30, "kv_cache_config.disk_cache_path": "/x"}
    assert plan("1.3.0rc24", given).nested["kv_cache_config"] == {
        "disk_cache_size": 1 << 30,
        "disk_cache_path": "/x",
    }
    with pytest.raises(UsageError, match="disk_cache_size: unknown argument"):
        plan("1.2.1", given)


@pytest.mark.parametrize(
    ("trtllm", "given", "said"),
    [
        (
            "1.3.0rc24",
            {"kv_cache_config.onboard_blocks": True},
            "onboard_blocks: is gone: blocks on the host",
        ),
        ("1.4.0rc1", {"sampler_type": "auto"}, "sampler_type: is gone: TorchSampler is the only sampler"),
        (
            "1.4.0rc1",
            {"quant_config": {"quant_algo": "FP8"}},
            "is gone: not a key of the file: the checkpoint",
        ),
        ("1.4.0rc1", {"checkpoint_loader": "x"}, "a Python object, which no file can hold"),
        (
            "1.4.0rc1",
            {"speculative_config.eagle3_one_model": True},
            "is gone: draft and target are always one",
        ),
        ("1.4.0rc1", {"moe_config.backend": "WIDEEP"}, "expected one of AUTO.*; is gone: there is no WIDEEP"),
        ("1.2.1", {"speculative_config.decoding_type": "DraftTarget"}, "decoding_type=Draft_Target"),
    ],
)
def test_what_is_gone_is_said_with_what_takes_its_place(
    trtllm: str, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        plan(trtllm, given)


@pytest.mark.parametrize("trtllm", ["1.3.0rc29", "1.4.0rc4"])
def test_a_value_that_is_gone_is_refused_where_the_argument_is_free_text(trtllm: str) -> None:
    given = {"attn_backend": "FLASHINFER_STAR_ATTENTION"}
    with pytest.raises(
        UsageError, match=r"attn_backend: found FLASHINFER_STAR_ATTENTION, which is gone: STAR"
    ):
        plan(trtllm, given)
    assert plan("1.2.1", given).arguments["attn_backend"] == "FLASHINFER_STAR_ATTENTION"
    assert plan(trtllm, {"attn_backend": "INKLING"}).arguments["attn_backend"] == "INKLING"


def test_a_refusal_says_which_table_it_was_and_how_to_get_past_it() -> None:
    with pytest.raises(UsageError) as error:
        plan("1.4.0rc1", {"of_next_year": 1})
    assert "checked by table 1.4 (NVIDIA/TensorRT-LLM, tensorrt_llm/schemas/" in str(error.value)
    assert "`tpforge versions --learn`" in str(error.value)
    assert "--llm-arg-unchecked NAME=VALUE" in str(error.value)


@pytest.mark.parametrize("trtllm", ["1.2.1", "1.3.0rc28", "1.4.0rc1"])
def test_the_draft_model_has_the_name_of_the_release_and_its_alias_is_taken(trtllm: str) -> None:
    own, other = "speculative_model", "speculative_model_dir"
    own, other = (other, own) if trtllm == "1.2.1" else (own, other)
    table = "speculative_config"
    given = {f"{table}.decoding_type": "Eagle", f"{table}.max_draft_len": 3, f"{table}.{other}": "x/y"}
    assert plan(trtllm, given).nested[table] == {"decoding_type": "Eagle", "max_draft_len": 3, own: "x/y"}
    with pytest.raises(UsageError, match="given twice"):
        plan(trtllm, {**given, f"{table}.{own}": "z"})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sparse_attention_config.topk": 3}, "sparse_attention_config.algorithm: missing"),
        (
            {"sparse_attention_config.algorithm": "dsa", "sparse_attention_config.topr": 3},
            "topr: is not a field of algorithm dsa; it belongs to rocket",
        ),
        ({"speculative_config.max_draft_len": 3}, "speculative_config.decoding_type: missing"),
        (
            {"speculative_config.decoding_type": "MTP", "speculative_config.is_keep_all": True},
            "is not a field of decoding_type MTP; it belongs to NGram",
        ),
        (
            {"kv_cache_compression_config.algorithm": "triattention"},
            "calibration_path: missing; kv_cache_compression_config triattention needs it",
        ),
        ({"cp_config.cp_type": "RING", "cp_config.fifo_version": 2}, "of cp_type RING; it belongs to HELIX"),
        ({"cuda_graph_config.mode": "decode", "cuda_graph_config.seq_lens": [8]}, "it belongs to encode"),
    ],
)
def test_an_argument_goes_with_the_tag_of_its_table(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputRefused, match=said):
        plan("1.4.0rc1", given)


def test_the_mode_of_cuda_graphs_may_be_left_out_as_upstream_infers_it() -> None:
    assert plan("1.4.0rc1", {"cuda_graph_config.seq_lens": [8]}).arguments["cuda_graph_config.seq_lens"] == [
        8
    ]


def test_a_table_may_be_given_as_json_and_null_means_the_default() -> None:
    found = plan("1.4.0rc1", {"kv_cache_config": '{"dtype": "fp8"}', "max_num_tokens": "null"})
    assert found.nested["kv_cache_config"] == {"dtype": "fp8"}
    assert found.arguments["max_num_tokens"] is None


def test_a_release_that_was_not_read_and_a_row_that_is_not_sure_are_said() -> None:
    assert any("were not compared with upstream" in one for one in plan("1.4.0rc3", {}).warnings)
    assert not any("not compared" in one for one in plan("1.4.0rc1", {}).warnings)
    warnings = plan("1.2.1", {"enable_sleep": True}).warnings
    assert any("not sure for 1.2.1: enable_sleep" in one for one in warnings)


def test_unchecked_arguments_reach_llm_yaml_and_engine_json_names_them(tmp_path: Path) -> None:
    model, out = write_tiny_llama(tmp_path / "model"), tmp_path / "engine"
    options = ["--runtime", "pytorch", "--trtllm", "1.4.0rc1", "--sm", "90", "--max-seq-len", "64"]
    options += ["--llm-arg-unchecked", "kv_cache_config.of_next_year=[1, 2]", "--llm-arg-unchecked", "name=x"]
    options += ["--llm-arg", "kv_cache_config.dtype=fp8"]
    assert main(["build", str(model), "--out", str(out), *options]) == 0
    found = yaml.safe_load((out / "llm.yaml").read_text(encoding="utf-8"))
    assert found["kv_cache_config"] == {"dtype": "fp8", "of_next_year": [1, 2]}
    api = read_manifest(out).llm_api
    assert api is not None
    assert api.unchecked == {"kv_cache_config.of_next_year": [1, 2], "name": "x"}
    assert api.checked_by == "table 1.4, read from upstream's files beside this release"
    again = list(read_manifest(out).command)
    assert again[again.index("--llm-arg-unchecked") + 1] == "kv_cache_config.of_next_year=[1, 2]"


def test_what_tpforge_sets_itself_or_is_given_checked_is_never_passed_on_unchecked() -> None:
    with pytest.raises(UsageError, match="tensor_parallel_size: is set by tpforge itself"):
        plan("1.4.0rc1", {}, {"tensor_parallel_size": 4})
    with pytest.raises(UsageError, match="stream_interval: is given by --llm-arg too"):
        plan("1.4.0rc1", {"stream_interval": 4}, {"stream_interval": 5})


def test_each_change_is_one_of_the_tables_that_it_speaks_of() -> None:
    """A renamed argument's new name is in its table, a dropped one without a value is gone or deprecated."""
    last = {"1.2": "1.2.1", "1.3": "1.3.0rc28", "1.4": "1.4.0rc1"}
    for one in changes():
        rows = {row.name: row for row in llm_table(find_release(last[one.table])).arguments}
        if one.verdict == "renamed":
            assert one.to in rows, one
        elif one.verdict == "dropped" and one.was is None:
            assert one.name not in rows or rows[one.name].status == "deprecated", one
        elif one.verdict == "default":
            assert rows[one.name].default == one.becomes, one


def test_changes_are_those_between_two_tables_and_python_objects_are_no_change() -> None:
    assert table_names("llm_args.toml") == ("1.2", "1.3", "1.4")
    names = {one.name for one in changes_between("1.3", "1.4")}
    assert "speculative_config.eagle_choices" in names
    assert "kv_cache_config.onboard_blocks" not in names
    assert {one.verdict for one in changes_between("1.2", "1.4")} == {"renamed", "dropped", "default"}
    assert reason_gone("kv_cache_config.onboard_blocks", True, table="1.2") is None


def test_every_expected_failure_is_one_of_ours() -> None:
    for given in ({"max_batch_size": []}, {"cuda_graph_config": "["}, {"a": {"b": {"c": None}}}):
        with pytest.raises(TpforgeError):
            plan("1.4.0rc1", given)
