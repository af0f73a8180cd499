"""`tpforge build --runtime tensorrt`: the arguments, the command, the run, and what came of it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from builders.tensorrt.command import build_command, build_words, join_lines
from builders.tensorrt.log import LogReader
from builders.tensorrt.plan import plan_build
from builders.tensorrt.target import read_facts
from engines.store import read_manifest
from scripts.main import main
from tests.support.build_targets import RELEASE, target_of
from tests.support.hosts import host_of
from tests.support.servers.standin_trtllm_build import LOG, write_standin
from tests.support.tiny import write_tiny_llama
from tpforge.errors import InputRefused, UsageError
from tpforge.manifest import Limits
from tpforge.trtllm.argument_tables import build_arguments

LIMITS = Limits(max_batch_size=64, max_input_len=2048, max_seq_len=4096)


def test_the_limits_and_the_ranks_become_arguments_in_the_order_of_upstreams_help() -> None:
    plan = plan_build(target_of(), limits=LIMITS, given={"gemm_plugin": "auto", "max_num_tokens": 4096})
    assert build_words(plan) == (
        *("trtllm-build", "--checkpoint_dir", "checkpoint", "--output_dir", "engine"),
        *("--max_batch_size", "64", "--max_input_len", "2048", "--max_seq_len", "4096"),
        *("--max_num_tokens", "4096", "--workers", "4", "--gemm_plugin", "auto"),
    )


def test_flags_stand_alone_and_lists_spread() -> None:
    given = {"strip_plan": "true", "lora_plugin": "auto", "lora_target_modules": "attn_q,attn_v"}
    words = build_words(plan_build(target_of(), limits=LIMITS, given=given))
    text = " ".join(words)
    assert "--strip_plan --workers 4 --lora_target_modules attn_q attn_v --lora_plugin auto" in text
    assert words.count("--strip_plan") == 1


def test_fewer_gpus_than_ranks_build_in_turns() -> None:
    assert plan_build(target_of(num_gpus=2), limits=LIMITS, given={}).arguments["workers"] == 2


def test_throughput_of_float_llama_turns_on_cublaslt_and_the_fused_reduce() -> None:
    plan = plan_build(target_of(), limits=LIMITS, given={}, goal="throughput")
    assert plan.arguments == {
        "max_batch_size": 64,
        "max_input_len": 2048,
        "max_seq_len": 4096,
        "max_num_tokens": 8192,
        "workers": 4,
        "gemm_plugin": "auto",
        "use_paged_context_fmha": "enable",
        "multiple_profiles": "enable",
        "reduce_fusion": "enable",
    }


def test_throughput_of_fp8_llama_turns_cublaslt_off_and_user_buffers_on() -> None:
    plan = plan_build(target_of(quant_algo="FP8"), limits=LIMITS, given={}, goal="throughput")
    assert plan.arguments["gemm_plugin"] == "disable"
    assert (plan.arguments["reduce_fusion"], plan.arguments["user_buffer"]) == ("enable", "enable")


def test_latency_of_fp8_takes_the_low_latency_products_on_hopper_but_not_on_blackwell() -> None:
    hopper = plan_build(target_of(quant_algo="FP8"), limits=LIMITS, given={}, goal="latency")
    blackwell = plan_build(target_of(quant_algo="FP8", sm=100), limits=LIMITS, given={}, goal="latency")
    assert hopper.arguments["low_latency_gemm_plugin"] == "fp8"
    assert "low_latency_gemm_plugin" not in blackwell.arguments


def test_what_is_given_by_hand_comes_before_a_goal() -> None:
    plan = plan_build(target_of(), limits=LIMITS, given={"multiple_profiles": "disable"}, goal="throughput")
    assert plan.arguments["multiple_profiles"] == "disable"
    assert "multiple_profiles" not in [setting.name for setting in plan.settings]


def test_a_goal_of_another_model_than_llama_leaves_the_reduce_alone() -> None:
    plan = plan_build(target_of(architecture="QWenForCausalLM"), limits=LIMITS, given={}, goal="throughput")
    assert "reduce_fusion" not in plan.arguments


def test_every_preset_of_every_checkpoint_passes_its_own_relations() -> None:
    for goal in ("latency", "throughput", "memory"):
        for algo in (None, "FP8", "W8A16"):
            for tp in (1, 4):
                for sm in (None, 80, 89, 90, 100):
                    if algo == "FP8" and sm == 80:
                        continue
                    target = target_of(sm=sm, quant_algo=algo, tp_size=tp, world_size=tp)
                    plan_build(target, limits=LIMITS, given={}, goal=goal)


def test_docker_mounts_the_engine_folder_and_gives_a_gpu_a_worker() -> None:
    plan = plan_build(target_of(), limits=LIMITS, given={})
    command = build_command(plan, where="docker", folder=Path("/data/llama"))
    text = " ".join(command.words)
    assert text.startswith('docker run --rm --gpus "device=0,1,2,3" --shm-size 16g --ulimit memlock=-1')
    assert "--volume /data/llama:/engine --workdir /engine" in text
    assert "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3 trtllm-build --checkpoint_dir" in text


def test_slurm_spells_the_registry_as_pyxis_does() -> None:
    plan = plan_build(target_of(), limits=LIMITS, given={})
    words = build_command(plan, where="slurm", folder=Path("/data/llama")).words
    assert words[:4] == ("srun", "--nodes=1", "--ntasks=1", "--gpus=4")
    assert "--container-image=nvcr.io#nvidia/tritonserver:26.07-trtllm-python-py3" in words


def test_a_command_for_a_shell_quotes_what_a_shell_would_take_apart() -> None:
    text = join_lines(["docker", "run", "--gpus", '"device=0,1"', "--env", "A=b c", "image", "program"])
    assert subprocess.run(
        ["sh", "-c", "printf '%s\\n' " + text], capture_output=True, text=True, check=True
    ).stdout.splitlines() == ["docker", "run", "--gpus", '"device=0,1"', "--env", "A=b c", "image", "program"]


def test_a_log_gives_its_numbers_in_bytes_and_seconds() -> None:
    reader = LogReader()
    for line in LOG:
        reader.feed(line)
    log = reader.summary()
    assert (log.seconds, log.weight_bytes, log.peak_host_bytes) == (95, 1048576, 31245090000)
    assert log.warnings == ("Provided max_seq_len is small",)
    assert log.activation_bytes is None


def test_a_config_without_mapping_is_no_checkpoint() -> None:
    with pytest.raises(InputRefused, match="mapping: missing"):
        read_facts({"architecture": "LlamaForCausalLM", "dtype": "float16"}, where="x")
    with pytest.raises(InputRefused, match="world_size is 8, but tp_size 2 x pp_size 2 are 4"):
        read_facts(
            {
                "architecture": "LlamaForCausalLM",
                "dtype": "float16",
                "mapping": {"world_size": 8, "tp_size": 2, "pp_size": 2},
            },
            where="x",
        )


def test_the_stand_in_takes_every_argument_of_the_table_and_no_other(tmp_path: Path) -> None:
    program = write_standin(tmp_path / "bin")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text('{"mapping": {"world_size": 1}}')
    words = [str(program), "--checkpoint_dir", "checkpoint", "--output_dir", "engine"]
    for one in build_arguments(RELEASE):
        if one.name in ("checkpoint_dir", "output_dir"):
            continue
        value = {"int": "1", "switch": "enable", "str": "x"}.get(one.type) or (one.choices or ("x",))[0]
        words += [f"--{one.name}"] if one.type == "flag" else [f"--{one.name}", value]
    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    refused = subprocess.run(
        [*words[:5], "--auto_parallel", "2"], cwd=tmp_path, check=False, capture_output=True, text=True
    )
    assert refused.returncode == 2
    assert "unrecognized arguments: --auto_parallel" in refused.stderr


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "model")


def build(model: Path, out: Path, *options: str) -> int:
    limits = ["--max-seq-len", "64", "--max-input-len", "32", "--max-batch-size", "4"]
    return main(["build", str(model), "--runtime", "tensorrt", "--out", str(out), *limits, *options])


def use_standin(monkeypatch: pytest.MonkeyPatch, folder: Path, **behaviour: Any) -> None:
    write_standin(folder, **behaviour)
    monkeypatch.setattr("engines.host.find_host", lambda: host_of(packages=()))
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_a_build_converts_runs_checks_and_records(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_standin(monkeypatch, tmp_path / "bin")
    out = tmp_path / "engine"
    assert build(model, out, "--tp", "2", "--sm", "90", "--build-arg", "gemm_plugin=auto") == 0
    manifest = read_manifest(out)
    built = manifest.engine_build
    assert built is not None
    assert (manifest.runtime, built.trtllm, built.tensorrt) == ("tensorrt", "1.2.1", "10.14.1.48")
    assert built.command[:5] == ("trtllm-build", "--checkpoint_dir", "checkpoint", "--output_dir", "engine")
    assert built.arguments["workers"] == 2
    assert built.log == {"seconds": 95, "weight_bytes": 1048576, "peak_host_bytes": 31245090000}
    names = {file.path for file in manifest.files}
    assert {"engine/rank0.engine", "engine/rank1.engine", "engine/config.json"} <= names
    assert {"checkpoint/rank1.safetensors", "tokenizer/tokenizer.json"} <= names
    assert manifest.command[-2:] == ("--build-arg", "gemm_plugin=auto")
    assert (out / "build.sh").read_text().endswith("--gemm_plugin auto\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "engine", "model"]


@pytest.mark.parametrize(
    ("behaviour", "status", "said"),
    [
        ({"missing_ranks": 1}, 6, "rank1.engine: missing"),
        ({"version": "1.1.0"}, 6, "version is 1.1.0, asked for 1.2.1"),
        ({"build_config": {"max_batch_size": 2}}, 6, "max_batch_size is 2, asked for 4"),
        ({"status": 1, "log": ["RuntimeError: CUDA out of memory. Tried to allocate"]}, 4, "out of memory: "),
        ({"status": 9, "log": ["something new"]}, 4, "no known cause; its last lines:\n  something new"),
    ],
)
def test_a_build_that_fails_or_makes_something_else_leaves_no_engine_but_keeps_the_checkpoint(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    behaviour: dict[str, Any],
    status: int,
    said: str,
) -> None:
    use_standin(monkeypatch, tmp_path / "bin", **behaviour)
    assert build(model, tmp_path / "engine", "--tp", "2") == status
    assert said in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()
    assert (tmp_path / ".engine.checkpoint" / "rank1.safetensors").is_file()


def test_a_second_try_keeps_the_checkpoint_of_the_first(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_standin(monkeypatch, tmp_path / "bin", status=1)
    assert build(model, tmp_path / "engine") == 4
    write_standin(tmp_path / "bin")
    assert build(model, tmp_path / "engine") == 0
    assert "of an earlier run" in capsys.readouterr().err


def test_the_checkpoint_of_another_model_of_the_same_sizes_is_not_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_standin(monkeypatch, tmp_path / "bin", status=1)
    assert build(model, tmp_path / "engine") == 4
    write_tiny_llama(model, seed=1)
    write_standin(tmp_path / "bin")
    assert build(model, tmp_path / "engine") == 0
    assert "of an earlier run" not in capsys.readouterr().err
    write_tiny_llama(tmp_path / "again", seed=1)
    assert build(tmp_path / "again", tmp_path / "other") == 0
    files = [tmp_path / name / "checkpoint" / "rank0.safetensors" for name in ("engine", "other")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_without_trtllm_build_nothing_is_converted(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build(model, tmp_path / "engine") == 3
    assert "trtllm-build: not found on PATH; use --container docker" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        (
            {"gpus": (), "notes": ("no driver",)},
            [],
            "GPUs: this host has none (no driver); trtllm-build tries",
        ),
        ({"packages": (("tensorrt_llm", "1.1.0"),)}, [], "1.1.0 is installed, 1.2.1 is asked for"),
        ({}, ["--container", "docker"], "docker: Cannot connect to the Docker daemon"),
        (
            {"has_nvidia_containers": False},
            ["--container", "docker"],
            "NVIDIA's container toolkit: not found",
        ),
        ({"cuda": "12.4", "driver": "550.54.14"}, ["--container", "docker"], "supports CUDA 12.4"),
        ({}, ["--container", "podman"], "podman: not found on PATH"),
    ],
)
def test_a_host_that_cannot_compile_is_refused_before_anything_is_converted(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    options: list[str],
    said: str,
) -> None:
    use_standin(monkeypatch, tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}/usr/bin{os.pathsep}/bin")
    docker = tmp_path / "bin" / "docker"
    docker.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    docker.chmod(0o755)
    monkeypatch.setattr("engines.host.find_host", lambda: host_of(**{"packages": (), **changes}))
    assert build(model, tmp_path / "engine", *options) == 3
    assert said in capsys.readouterr().err
    assert not (tmp_path / ".engine.checkpoint").exists()


def test_integer_weights_that_are_not_laid_out_for_a_gpu_are_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(model, tmp_path / "engine", "--quantize", "int8_wo", "--dry-run") == 2
    assert "--portable" in capsys.readouterr().err
    assert build(model, tmp_path / "engine", "--quantize", "int8_wo", "--portable", "--dry-run") == 0


def test_a_dry_run_prints_one_object_with_the_command_and_says_that_nothing_was_run(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(model, tmp_path / "engine", "--tp", "2", "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["run"], found["release"]) == ("compilation", False, "1.2.1")
    assert found["command"][:3] == ["trtllm-build", "--checkpoint_dir", "checkpoint"]
    assert "It was not run when this was written." in found["script"]
    assert not (tmp_path / "engine").exists()


def test_a_checkpoint_of_upstreams_is_planned_by_its_config_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {
        "architecture": "LlamaForCausalLM",
        "dtype": "bfloat16",
        "max_position_embeddings": 131072,
        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
        "mapping": {"world_size": 4, "tp_size": 4, "pp_size": 1},
    }
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    arguments = ["build", str(folder), "--runtime", "tensorrt", "--sm", "90", "--max-seq-len", "4096"]
    assert main([*arguments, "--optimize-for", "throughput", "--dry-run"]) == 0
    assert "--user_buffer enable" in capsys.readouterr().out
    assert main([*arguments[:-3], "80", "--max-seq-len", "4096", "--dry-run"]) == 4
    assert "SM80 is not supported" in capsys.readouterr().err
    assert main(arguments) == 2


def test_an_unknown_argument_of_the_command_line_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"unknown argument; did you mean multiple_profiles\?"):
        plan_build(target_of(), limits=LIMITS, given={"mulitple_profiles": "enable"})


@pytest.mark.parametrize(("hidden_size", "instead"), [(64, "int4_wo"), (128, "int4_awq")])
def test_the_format_that_is_offered_instead_takes_the_models_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hidden_size: int, instead: str
) -> None:
    source = write_tiny_llama(tmp_path / "source", hidden_size=hidden_size, head_size=hidden_size // 4)
    words = ["--quantize", "nvfp4", "--runtime", "tensorrt", "--sm", "90", "--dry-run"]
    assert main(["build", str(source), *words]) == 4
    assert f"--quantize nvfp4 cannot work here; use {instead}:" in capsys.readouterr().err
