"""`tpforge migrate`: what becomes of every setting of a compiled engine in the LLM API."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from builders.migration.settings import plan_migration, read_old_engine, settings_of
from scripts.main import main
from tpforge.errors import InputRefused
from tpforge.recipe import parse_recipe
from tpforge.trtllm.argument_tables import build_arguments, llm_arguments
from tpforge.trtllm.versions import find_release
from triton_repo.render.parameters import parameter_tables

RELEASE = find_release("1.2.1")
UPSTREAM: dict[str, Any] = {
    "version": "1.1.0",
    "pretrained_config": {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "mapping": {"world_size": 4, "tp_size": 4, "pp_size": 1},
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
    },
    "build_config": {
        "max_input_len": 16384,
        "max_seq_len": 32768,
        "opt_batch_size": 8,
        "max_batch_size": 512,
        "max_beam_width": 1,
        "max_num_tokens": 8192,
        "kv_cache_type": "PAGED",
        "speculative_decoding_mode": 1,
        "lora_config": {"lora_dir": [], "max_lora_rank": 64},
        "plugin_config": {
            "gemm_plugin": None,
            "use_paged_context_fmha": True,
            "multiple_profiles": True,
            "reduce_fusion": True,
            "user_buffer": False,
            "tokens_per_block": 64,
        },
    },
}
TRITON = {
    "kv_cache_free_gpu_mem_fraction": "0.85",
    "enable_kv_cache_reuse": "false",
    "batch_scheduler_policy": "max_utilization",
    "cuda_graph_mode": "true",
}


def moves_of(
    engine: dict[str, Any], tmp_path: Path, **parameters: str
) -> dict[str, tuple[str, dict[str, Any]]]:
    file = tmp_path / "config.json"
    file.write_text(json.dumps(engine))
    migration = plan_migration(read_old_engine(file), parameters=parameters, trtllm="1.2.1", sm=90)
    return {move.setting: (move.verdict, move.new) for move in migration.moves}


def test_every_setting_of_an_engine_of_upstreams_has_a_verdict(tmp_path: Path) -> None:
    assert moves_of(UPSTREAM, tmp_path) == {
        "mapping.tp_size": ("mapped", {}),
        "mapping.pp_size": ("mapped", {}),
        "mapping.moe_ep_size": ("mapped", {}),
        "quantization.quant_algo": ("changed", {}),
        "quantization.kv_cache_quant_algo": ("mapped", {"kv_cache_config.dtype": "fp8"}),
        "build_config.max_input_len": ("mapped", {"max_input_len": 16384}),
        "build_config.max_seq_len": ("mapped", {"max_seq_len": 32768}),
        "build_config.opt_batch_size": ("dropped", {}),
        "build_config.max_batch_size": ("mapped", {"max_batch_size": 512}),
        "build_config.max_beam_width": ("mapped", {"max_beam_width": 1}),
        "build_config.max_num_tokens": ("mapped", {"max_num_tokens": 8192}),
        "build_config.kv_cache_type": ("dropped", {}),
        "build_config.speculative_decoding_mode": ("dropped", {}),
        "build_config.lora_config": ("dropped", {}),
        "plugin_config.gemm_plugin": ("dropped", {}),
        "plugin_config.use_paged_context_fmha": ("changed", {"kv_cache_config.enable_block_reuse": True}),
        "plugin_config.multiple_profiles": ("changed", {"cuda_graph_config.enable_padding": True}),
        "plugin_config.reduce_fusion": ("changed", {"allreduce_strategy": "AUTO"}),
        "plugin_config.user_buffer": ("dropped", {}),
        "plugin_config.tokens_per_block": ("mapped", {"kv_cache_config.tokens_per_block": 64}),
        "(prompts)": ("changed", {"enable_chunked_prefill": True}),
    }


def test_parameters_of_the_repository_come_last_and_win(tmp_path: Path) -> None:
    moves = moves_of(UPSTREAM, tmp_path, **TRITON)
    assert moves["triton.kv_cache_free_gpu_mem_fraction"] == (
        "mapped",
        {"kv_cache_config.free_gpu_memory_fraction": 0.85},
    )
    assert moves["triton.batch_scheduler_policy"] == (
        "changed",
        {"scheduler_config.capacity_scheduler_policy": "MAX_UTILIZATION"},
    )
    assert moves["triton.cuda_graph_mode"] == ("dropped", {})
    file = tmp_path / "config.json"
    migration = plan_migration(read_old_engine(file), parameters=TRITON, trtllm="1.2.1", sm=90)
    assert migration.arguments["kv_cache_config.enable_block_reuse"] is False


def test_a_setting_that_nobody_knows_is_told_rather_than_lost(tmp_path: Path) -> None:
    engine = {**UPSTREAM, "build_config": {**UPSTREAM["build_config"], "of_next_year": 3}}
    assert moves_of(engine, tmp_path)["build_config.of_next_year"] == ("unknown", {})


@pytest.mark.parametrize(
    ("algo", "verdict"),
    [("FP8", "changed"), ("W4A16_AWQ", "changed"), ("W4A16_GPTQ", "dropped"), ("NVFP4", "dropped")],
)
def test_weights_that_the_llm_api_does_not_load_on_this_gpu_are_told(
    tmp_path: Path, algo: str, verdict: str
) -> None:
    engine = {
        **UPSTREAM,
        "pretrained_config": {"quantization": {"quant_algo": algo}, "mapping": {"tp_size": 1}},
    }
    assert moves_of(engine, tmp_path)["quantization.quant_algo"][0] == verdict


def test_an_int8_kv_cache_becomes_fp8(tmp_path: Path) -> None:
    engine = {**UPSTREAM, "pretrained_config": {"quantization": {"kv_cache_quant_algo": "INT8"}}}
    moves = moves_of(engine, tmp_path)
    assert moves["quantization.kv_cache_quant_algo"] == ("changed", {"kv_cache_config.dtype": "fp8"})


@pytest.mark.parametrize(
    ("mode", "new"),
    [
        ("MEDUSA", {}),
        (
            "EAGLE",
            {
                "speculative_config.decoding_type": "Eagle",
                "speculative_config.max_draft_len": 5,
                "speculative_config.speculative_model_dir": "DRAFT_MODEL",
            },
        ),
        (
            "SpeculativeDecodingMode.LOOKAHEAD_DECODING",
            {"speculative_config.decoding_type": "NGram", "speculative_config.max_draft_len": 5},
        ),
    ],
)
def test_speculation_becomes_what_the_pytorch_backend_has(
    tmp_path: Path, mode: str, new: dict[str, Any]
) -> None:
    build = {"max_batch_size": 8, "speculative_decoding_mode": mode, "max_draft_len": 5, "plugin_config": {}}
    moves = moves_of({"build_config": build}, tmp_path)
    assert moves["build_config.speculative_decoding_mode"] == ("changed" if new else "dropped", new)


def test_every_argument_of_trtllm_build_and_every_parameter_has_a_row() -> None:
    """What becomes of a setting is known for all that tpforge itself can set."""
    build = settings_of("build_config").keys() | settings_of("plugin_config").keys()
    given = {one.name for one in build_arguments(RELEASE) if not one.owned}
    # These become lora_config and gather_*_logits of the build config.
    inside = {
        "lora_dir",
        "lora_ckpt_source",
        "lora_target_modules",
        "max_lora_rank",
        "gather_all_token_logits",
    }
    assert given - build == inside
    table = parameter_tables()["tensorrt_llm"]
    assert set(table.names) - settings_of("triton").keys() == set()


def test_every_new_name_is_an_argument_of_the_llm_api() -> None:
    known = {one.name for one in llm_arguments(RELEASE)}
    for group in ("build_config", "plugin_config", "triton"):
        assert {row.to for row in settings_of(group).values() if row.to} - known == set()


def test_the_command_writes_a_recipe_that_is_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(UPSTREAM))
    out = tmp_path / "recipe.toml"
    options = ["--model", "meta-llama/Llama-3.3-70B-Instruct", "--sm", "90", "--out", str(out)]
    assert main(["migrate", str(tmp_path), *options]) == 0
    said = capsys.readouterr().out
    assert "plugin_config.multiple_profiles" in said
    assert "tpforge compare RUN RUN" in said
    recipe = parse_recipe(out.read_text(), path=out)
    assert recipe.repository.front == "inflight"
    assert (recipe.runtime, recipe.tp, recipe.sm, recipe.limits.max_batch_size) == ("pytorch", 4, 90, 512)
    assert recipe.pytorch.llm_args["kv_cache_config.dtype"] == "fp8"
    assert main(["migrate", str(tmp_path), *options]) == 4


@pytest.mark.parametrize("model", ["/models/a #b", 'a "b" \\\\ c', "/models/\U0001f600", "a\x7f\tb"])
def test_any_name_of_a_model_comes_back_from_the_recipe(
    tmp_path: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(UPSTREAM))
    assert main(["migrate", str(tmp_path), "--model", model, "--sm", "90", "--json"]) == 0
    found = tomllib.loads(json.loads(capsys.readouterr().out)["recipe"])
    assert (found["model"], found["tp"], found["repository"]) == (model, 4, {"front": "inflight"})


def test_a_build_config_alone_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "build_config.json"
    file.write_text(json.dumps({"max_batch_size": 4, "max_seq_len": 2048, "plugin_config": {}}))
    assert main(["migrate", str(file), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert tomllib.loads(found["recipe"])["limits"] == {"max_batch_size": 4, "max_seq_len": 2048}
    assert (found["kind"], found["from"]) == ("migration", None)


@pytest.mark.parametrize("text", ["{}", "[]", '{"architecture": "x"}', "no json"])
def test_what_is_no_engine_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputRefused, match=r"config\.json"):
        read_old_engine(tmp_path)
    with pytest.raises(InputRefused, match=r"no such engine folder"):
        read_old_engine(tmp_path / "missing")
