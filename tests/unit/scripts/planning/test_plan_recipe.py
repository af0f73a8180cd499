"""A plan's recipe through `tpforge up --dry-run`, for every format that a plan tries or is asked for."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from scripts.main import main
from tests.support.tiny import write_tiny_llama
from tests.unit.builders.test_declared_models import write_model
from tpforge.recipe import parse_recipe
from tpforge.repository_options import TensorrtOptions
from tpforge.trtllm.versions import DEFAULT_RELEASE

CONVERTED = [
    ("none", "h100", "bfloat16"),
    ("none", "h100", "fp8"),
    ("int8_wo", "h100", "bfloat16"),
    ("int8_wo", "h100", "fp8"),
    ("fp8_rowwise", "h100", "fp8"),
    ("nvfp4", "b200", "fp8"),
]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("work", "recipes"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return write_tiny_llama(tmp_path / "models" / "tiny llama", hidden_size=128, intermediate_size=256)


def planned(model: Path | str, gpu: str, *words: str) -> Path:
    file = Path("../recipes/out.toml")
    lengths = ("--isl", "100", "--osl", "20", "--recipe", str(file))
    assert main(["plan", str(model), "--gpu", gpu, *lengths, *words]) == 0
    return file


@pytest.mark.parametrize(("weights", "gpu", "kv"), CONVERTED)
def test_up_accepts_the_recipe_of_every_format_that_is_made_while_converting(
    weights: str, gpu: str, kv: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = planned(model, gpu, "--format", weights, "--kv", kv)
    recipe = parse_recipe(file.read_text(encoding="utf-8"), path=file)
    assert recipe.quantize == (None if weights == "none" else weights)
    assert recipe.kv_cache == ("fp8" if kv == "fp8" else None)
    assert recipe.tensorrt.container == "docker"
    capsys.readouterr()
    assert main(["up", str(file), "--dry-run"]) == 0
    assert "trtllm-build" in capsys.readouterr().out


def test_the_recipe_of_an_engine_states_windows_that_requests_exceed(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Compiled engines have windows as a setting of the server alone; the plan's cache is bounded by them."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    config |= {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "sliding_window": 64}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    file = planned(model, "h100", "--format", "none", "--kv", "bfloat16")
    recipe = parse_recipe(file.read_text(encoding="utf-8"), path=file)
    assert isinstance(recipe.repository, TensorrtOptions)
    assert recipe.repository.parameters == {"max_attention_window_size": [64]}
    capsys.readouterr()
    assert main(["up", str(file), "--dry-run"]) == 0
    file.unlink()
    config["sliding_window"] = 4096
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert "max_attention_window_size" not in planned(model, "h100").read_text(encoding="utf-8")


@pytest.mark.parametrize("kv", ["bfloat16", "fp8"])
def test_up_accepts_the_recipe_of_the_llm_api_with_the_type_of_its_cache(
    kv: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = planned(model, "h100", "--runtime", "pytorch", "--format", "none", "--kv", kv)
    recipe = parse_recipe(file.read_text(encoding="utf-8"), path=file)
    assert recipe.kv_cache is None
    cache = {"kv_cache_config": {"dtype": "fp8"}} if kv == "fp8" else {}
    # The tiny model is stored in float32.
    assert recipe.pytorch.llm_args == {"dtype": "bfloat16", **cache}
    assert main(["up", str(file), "--dry-run"]) == 0


def test_the_recipe_names_the_first_release_that_runs_the_architecture(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer = write_model(tmp_path / "models" / "newer", "SmolLM3ForCausalLM")
    for folder, trtllm in ((newer, "1.3.0rc20"), (model, DEFAULT_RELEASE)):
        file = planned(folder, "h100", "--runtime", "pytorch", "--format", "none")
        assert parse_recipe(file.read_text(encoding="utf-8"), path=file).trtllm == trtllm
        assert main(["up", str(file), "--dry-run"]) == 0
        file.unlink()


@pytest.mark.parametrize("weights", ["fp8", "int8_sq"])
def test_a_format_that_needs_calibration_names_the_command_and_the_folder_that_it_makes(
    weights: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = planned(model, "h100", "--format", weights)
    text = file.read_text(encoding="utf-8")
    folder = f"./tiny llama-{weights}"
    assert f"tpforge quantize '../models/tiny llama' --format {weights} --out '{folder}'" in text
    values = tomllib.loads(text)
    assert values["model"] == folder
    assert "quantize" not in values
    # Once the folder is there, up reads it: a float checkpoint stands in for what modelopt writes.
    assert main(["up", str(file), "--dry-run"]) == 4
    assert f"tiny llama-{weights}: no such file" in capsys.readouterr().err
    write_tiny_llama(file.parent / folder, hidden_size=128, intermediate_size=256)
    assert main(["up", str(file), "--dry-run"]) == 0


def test_the_model_is_named_as_seen_from_the_recipe_and_a_config_as_its_folder(model: Path) -> None:
    file = planned(model / "config.json", "h100", "--format", "none")
    found = parse_recipe(file.read_text(encoding="utf-8"), path=file).model
    assert not tomllib.loads(file.read_text(encoding="utf-8"))["model"].startswith("/")
    assert Path(found).samefile(model)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--format", "none", "--kv", "int8"), "plan with --kv fp8"),
        (("--format", "gptq"), "is read from a checkpoint and not made"),
    ],
)
def test_what_nothing_makes_is_refused_and_no_recipe_is_written(
    words: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["plan", "llama-3.1-8b", "--gpu", "a100", *words]
    assert main([*command, "--recipe", "no.toml"]) == 4
    assert said in capsys.readouterr().err
    assert not Path("no.toml").exists()


def test_attention_data_parallelism_is_written_as_the_llm_apis_argument(model: Path) -> None:
    words = (
        "--gpus",
        "8",
        "--tp",
        "8",
        "--kv",
        "fp8",
        "--runtime",
        "pytorch",
        "--trtllm",
        "1.2.0",
        "--saturated",
    )
    file = planned("qwen3-235b-a22b", "h200-sxm", *words, "--isl", "1000", "--osl", "1000", "--format", "fp8")
    recipe = parse_recipe(file.read_text("utf-8"), path=file)
    assert recipe.pytorch.llm_args == {"enable_attention_dp": True, "kv_cache_config": {"dtype": "fp8"}}
    assert (recipe.tp, recipe.moe_ep) == (8, 8)


def test_a_share_of_memory_that_was_planned_with_is_what_the_server_gets(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = planned(model, "h100", "--format", "none", "--kv-fraction", "0.5")
    assert tomllib.loads(file.read_text("utf-8"))["repository"]["parameters"] == {
        "kv_cache_free_gpu_mem_fraction": 0.5
    }
    assert main(["up", str(file), "--dry-run"]) == 0
    for_llm_api = planned(
        model, "h100", "--format", "none", "--kv-fraction", "0.5", "--runtime", "pytorch", "--force"
    )
    arguments = tomllib.loads(for_llm_api.read_text("utf-8"))["pytorch"]["llm_args"]
    assert arguments["kv_cache_config"]["free_gpu_memory_fraction"] == 0.5
    assert main(["up", str(for_llm_api), "--dry-run"]) == 0
    default = planned(model, "h100", "--format", "none", "--force")
    assert "repository" not in tomllib.loads(default.read_text("utf-8"))


def test_requests_that_come_at_random_find_all_the_room_that_was_simulated(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = planned(model, "h100", "--format", "none", "--rate", "2", "--json")
    plan = json.loads(capsys.readouterr().out)["chosen"]
    limits = tomllib.loads(file.read_text("utf-8"))["limits"]
    assert plan["speed"]["batch"] < limits["max_batch_size"] == min(2048, plan["memory"]["max_requests"])


def test_a_rank_of_attention_data_parallelism_has_its_share_of_the_batch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [
        "--gpu",
        "h200",
        "--gpus",
        "8",
        "--tp",
        "8",
        "--runtime",
        "pytorch",
        "--saturated",
        "--kv",
        "fp8",
    ]
    assert main(["plan", "qwen3-235b-a22b-fp8", *words, "--recipe", "out.toml", "--json"]) == 0
    chosen = json.loads(capsys.readouterr().out)["chosen"]
    assert chosen["attention_dp"]
    limits = tomllib.loads(Path("out.toml").read_text("utf-8"))["limits"]
    assert limits["max_batch_size"] == -(-chosen["speed"]["batch"] // 8)


def test_a_recipe_says_that_it_drafts_nothing_and_counts_replicas_in_words(model: Path) -> None:
    words = ("--format", "none", "--draft-tokens", "3", "--acceptance", "0.7", "--gpus", "2", "--saturated")
    head = [
        line for line in planned(model, "h100", *words).read_text("utf-8").splitlines() if line[:1] == "#"
    ]
    assert any("3 tokens drafted for a step: this recipe drafts none" in line for line in head)
    assert "replica(s)" not in "".join(head)
