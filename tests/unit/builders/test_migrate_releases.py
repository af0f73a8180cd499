"""`tpforge migrate` of an llm.yaml: from the arguments of one release of the LLM API to those of another."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from builders.llm_api.given import check_given
from builders.migration.releases import LlmMigration, plan_llm_migration
from scripts.main import main
from tests.support.standin_tensorrt_llm import write_standin
from tests.support.tiny import write_tiny_llama
from tpforge.trtllm.argument_tables import llm_table
from tpforge.trtllm.versions import find_release

OLD: dict[str, Any] = {
    "backend": "pytorch",
    "tensor_parallel_size": 4,
    "moe_expert_parallel_size": 2,
    "moe_tensor_parallel_size": 2,
    "max_batch_size": 64,
    "max_seq_len": 4096,
    "kv_cache_config": {"dtype": "fp8", "onboard_blocks": True},
    "sampler_type": "auto",
    "moe_config": {"backend": "WIDEEP"},
    "torch_compile_config": {"enable_piecewise_cuda_graph": True, "capture_num_tokens": [128]},
    "speculative_config": {"decoding_type": "MTP", "num_nextn_predict_layers": 2},
    "cache_transceiver_config": {"backend": "UCX"},
    "of_next_year": 3,
}


def migrated(values: dict[str, Any], old: str = "1.2.1", new: str = "1.4.0rc1") -> LlmMigration:
    return plan_llm_migration(values, old=find_release(old), new=find_release(new))


def moves(found: LlmMigration) -> dict[str, tuple[str, dict[str, Any]]]:
    return {move.setting: (move.verdict, move.new) for move in found.moves}


def test_every_argument_of_an_llm_yaml_has_a_verdict() -> None:
    transceiver, compiling = "cache_transceiver_config", "torch_compile_config"
    assert moves(migrated(OLD)) == {
        "backend": ("dropped", {}),
        "tensor_parallel_size": ("mapped", {"tensor_parallel_size": 4}),
        "moe_expert_parallel_size": ("mapped", {"moe_expert_parallel_size": 2}),
        "moe_tensor_parallel_size": ("dropped", {}),
        "max_batch_size": ("mapped", {"max_batch_size": 64}),
        "max_seq_len": ("mapped", {"max_seq_len": 4096}),
        "kv_cache_config.dtype": ("mapped", {"kv_cache_config.dtype": "fp8"}),
        "kv_cache_config.onboard_blocks": ("dropped", {}),
        "sampler_type": ("dropped", {}),
        "moe_config.backend": ("dropped", {}),
        f"{compiling}.enable_piecewise_cuda_graph": ("changed", {"prefill_cuda_graph_backend": "piecewise"}),
        f"{compiling}.capture_num_tokens": ("changed", {"prefill_capture_num_tokens": [128]}),
        "speculative_config.decoding_type": ("mapped", {"speculative_config.decoding_type": "MTP"}),
        "speculative_config.num_nextn_predict_layers": ("changed", {"speculative_config.max_draft_len": 2}),
        f"{transceiver}.backend": ("mapped", {f"{transceiver}.backend": "UCX"}),
        "of_next_year": ("unknown", {}),
        "(default) kv_cache_config.use_kv_cache_manager_v2": (
            "changed",
            {"kv_cache_config.use_kv_cache_manager_v2": False},
        ),
        f"(default) {compiling}.max_num_streams": ("changed", {f"{compiling}.max_num_streams": 1}),
        f"(default) {transceiver}.kv_transfer_timeout_ms": (
            "changed",
            {f"{transceiver}.kv_transfer_timeout_ms": None},
        ),
        f"(default) {transceiver}.transceiver_runtime": (
            "changed",
            {f"{transceiver}.transceiver_runtime": "CPP"},
        ),
    }


def test_what_comes_out_is_an_llm_yaml_that_the_other_release_takes() -> None:
    found = yaml.safe_load(migrated(OLD).yaml)
    assert found["speculative_config"] == {"decoding_type": "MTP", "max_draft_len": 2}
    assert (found["tensor_parallel_size"], found["moe_expert_parallel_size"]) == (4, 2)
    release = find_release("1.4.0rc1")
    rows = tuple(one.model_copy(update={"owned": False}) for one in llm_table(release).arguments)
    table = llm_table(release).model_copy(update={"arguments": rows})
    assert check_given(found, table, release=release)["prefill_cuda_graph_backend"] == "piecewise"


def test_ranks_and_limits_go_to_the_recipe_and_the_rest_to_its_arguments() -> None:
    found = migrated(OLD)
    assert found.mapping == {"tp": 4, "pp": 1, "moe_ep": 2}
    assert found.limits == {"max_batch_size": 64, "max_seq_len": 4096}
    assert not {"tensor_parallel_size", "max_batch_size", "backend"} & found.arguments.keys()


@pytest.mark.parametrize(
    ("kind", "becomes"), [("Eagle", "Eagle3"), ("Eagle3", "Eagle3"), ("NGram", "NGram"), ("AUTO", "AUTO")]
)
def test_a_value_that_is_renamed_is_renamed_and_others_stay(kind: str, becomes: str) -> None:
    found = migrated({"speculative_config": {"decoding_type": kind, "max_draft_len": 3}})
    assert found.arguments["speculative_config.decoding_type"] == becomes
    assert not [name for name in found.arguments if name.startswith("speculative_config.max_matching")]


def test_the_same_release_changes_nothing() -> None:
    given = {"kv_cache_config": {"dtype": "fp8"}, "sampler_type": "auto", "stream_interval": 4}
    found = migrated(given, old="1.2.0", new="1.2.1")
    assert {move.verdict for move in found.moves} == {"mapped"}
    assert found.arguments == {"kv_cache_config.dtype": "fp8", "sampler_type": "auto", "stream_interval": 4}


def test_the_way_back_to_an_older_release_names_things_as_they_were_and_tells_what_is_lost() -> None:
    given = {
        "speculative_config": {
            "decoding_type": "Draft_Target",
            "max_draft_len": 3,
            "speculative_model": "/d",
        },
        "prefill_capture_num_tokens": [64],
        "kv_cache_config": {"disk_cache_size": 5},
    }
    found = moves(migrated(given, old="1.4.0rc1", new="1.2.1"))
    table = "speculative_config"
    assert found[f"{table}.speculative_model"] == ("changed", {f"{table}.speculative_model_dir": "/d"})
    assert found[f"{table}.max_draft_len"] == ("mapped", {f"{table}.max_draft_len": 3})
    assert found["prefill_capture_num_tokens"] == (
        "changed",
        {"torch_compile_config.capture_num_tokens": [64]},
    )
    assert found["kv_cache_config.disk_cache_size"] == ("dropped", {})


def test_a_value_that_the_other_release_does_not_take_is_for_a_person() -> None:
    given = {"scheduler_config": {"waiting_queue_policy": "priority"}}
    assert moves(migrated(given, old="1.4.0rc1", new="1.2.1"))["scheduler_config.waiting_queue_policy"] == (
        "unknown",
        {},
    )


@pytest.mark.parametrize("new", ["1.3.0rc28", "1.4.0rc1"])
def test_every_argument_of_1_2_has_a_way_to_a_later_release(new: str) -> None:
    """None is unknown: an argument that a later table lacks has a row that says what became of it."""
    rows = [one for one in llm_table(find_release("1.2.1")).arguments if one.status != "removed"]
    later = {one.name for one in llm_table(find_release(new)).arguments}
    gone = [one for one in rows if one.name not in later]
    samples = {"bool": True, "int": 1, "float": 0.5, "str": "x", "items": [[0]], "choice": None}
    for one in gone:
        value = one.choices[0] if one.type == "choice" else samples[one.type]
        move = moves(migrated({one.name: value}, new=new))[one.name]
        assert move[0] in ("changed", "dropped"), one.name
        why = next(each.why for each in migrated({one.name: value}, new=new).moves)
        assert "does not have it" not in why, one.name


def test_the_command_takes_an_llm_yaml_and_writes_one_or_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "llm.yaml", tmp_path / "new.yaml"
    file.write_text(yaml.safe_dump(OLD))
    words = ["migrate", str(file), "--to", "1.4.0rc1", "--model", "m", "--sm", "90"]
    assert main(words) == 2
    assert "give --from, such as --from 1.2.1" in capsys.readouterr().err
    assert main([*words, "--from", "1.2.1", "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert "look at by hand: of_next_year" in captured.err
    assert "serve TensorRT-LLM 1.2.1 with llm.yaml as it is today" in captured.out
    assert yaml.safe_load(out.read_text())["kv_cache_config"]["use_kv_cache_manager_v2"] is False
    assert main([*words, "--from", "1.2.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    recipe = tomllib.loads(found["recipe"])
    assert (found["from"], found["to"], recipe["trtllm"]) == ("1.2.1", "1.4.0rc1", "1.4.0rc1")
    assert (recipe["tp"], recipe["moe_ep"], recipe["limits"]) == (
        4,
        2,
        {"max_batch_size": 64, "max_seq_len": 4096},
    )
    assert recipe["pytorch"]["llm_args"]["cache_transceiver_config.kv_transfer_timeout_ms"] == "null"


def test_an_engine_folder_of_ours_says_its_release_and_model_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = write_tiny_llama(tmp_path / "model"), tmp_path / "engine"
    options = ["--runtime", "pytorch", "--sm", "90", "--max-seq-len", "64", "--llm-arg", "sampler_type=auto"]
    assert main(["build", str(model), "--out", str(out), *options]) == 0
    capsys.readouterr()
    assert main(["migrate", str(out), "--to", "1.3.0rc28", "--sm", "90", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["from"], tomllib.loads(found["recipe"])["model"]) == ("1.2.1", str(model.resolve()))
    assert {move["setting"]: move["verdict"] for move in found["moves"]}["sampler_type"] == "dropped"


@pytest.mark.parametrize("text", ["[1]", "a: [", "", "1: 2"])
def test_what_is_no_llm_yaml_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "llm.yaml").write_text(text)
    assert main(["migrate", str(tmp_path / "llm.yaml"), "--from", "1.2.1", "--to", "1.4.0rc1"]) == 4


def test_a_learned_release_is_gone_to_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert main(["versions", "--learn", "--python", str(write_standin(tmp_path / "site").python)]) == 0
    found = moves(migrated({"dtype": "auto", "stream_interval": 2, "sampler_type": "auto"}, new="1.9.9"))
    assert found["dtype"] == ("mapped", {"dtype": "auto"})
    assert found["stream_interval"] == ("dropped", {})
    assert found["sampler_type"] == ("dropped", {})


def test_a_compiled_engine_goes_to_a_release_of_today(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build = {"max_batch_size": 8, "max_seq_len": 2048, "max_input_len": 1024, "plugin_config": {}}
    build |= {"speculative_decoding_mode": "EAGLE", "max_draft_len": 5}
    (tmp_path / "config.json").write_text(json.dumps({"version": "1.1.0", "build_config": build}))
    assert main(["migrate", str(tmp_path), "--model", "m", "--to", "1.4.0rc1", "--sm", "90", "--json"]) == 0
    recipe = tomllib.loads(json.loads(capsys.readouterr().out)["recipe"])
    assert recipe["pytorch"]["llm_args"] == {
        "speculative_config.decoding_type": "Eagle3",
        "speculative_config.max_draft_len": 5,
        "speculative_config.speculative_model": "DRAFT_MODEL",
    }
    assert "repository" not in recipe
    assert main(["migrate", str(tmp_path), "--out", str(tmp_path / "x.yaml")]) == 2
