"""What nvidia-modelopt's output is held to, and what is refused before it is run. It is not run here."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from builders.quantize.calibration import modelopt
from builders.quantize.calibration.modelopt import repair
from scripts.main import main
from tests.support.quantized.checkpoints import write_quantized
from tests.support.tiny import write_tiny_llama
from tpforge.errors import VerificationFailed


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "model", tie=True, dtype="float16", config_extra={"rope_theta": 5e5})


@pytest.fixture
def made(model: Path, tmp_path: Path) -> Path:
    """As if modelopt had written it."""
    write_quantized(model, tmp_path / "made", method="smooth")
    return tmp_path / "made"


def change(folder: Path, **values: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | values
    dropped = {key: value for key, value in config.items() if value != "drop"}
    (folder / "config.json").write_text(json.dumps(dropped))


def test_a_dropped_rope_base_is_put_back_and_strays_and_tokenizer_are_set_right(
    model: Path, made: Path
) -> None:
    change(made, rope_theta="drop")
    (made / "rank0.safetensors").write_bytes(b"")
    (made / "tokenizer.json").write_text("{}")
    said: list[str] = []

    repair(model, made, progress=said.append)

    assert json.loads((made / "config.json").read_text())["rope_theta"] == 5e5
    assert "quantization_config" in json.loads((made / "config.json").read_text())
    assert said == [
        "put back into config.json: rope_theta",
        "removed rank0.safetensors, which belongs to no checkpoint",
    ]
    assert (made / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()


def test_a_changed_number_of_heads_is_refused(model: Path, made: Path) -> None:
    change(made, num_key_value_heads=1)

    with pytest.raises(VerificationFailed, match="num_key_value_heads: found 1, the model has 2"):
        repair(model, made, progress=print)


def test_heads_that_were_cut_and_a_loose_head_are_refused(model: Path, made: Path) -> None:
    path = made / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.0.self_attn.k_proj.weight"
    tensors[name] = tensors[name][:24].contiguous()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, path)

    with pytest.raises(VerificationFailed) as error:
        repair(model, made, progress=print)

    assert f"{name}: found 24 rows, the model has 32" in str(error.value)
    assert "lm_head.weight: the model's is tied to the embedding" in str(error.value)


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--format", "int4_awq"], 4, "attention.qkv has 64 columns on a rank, expected a multiple of 128"),
        (["--format", "int8_wo"], 2, "needs no calibration; use `tpforge build MODEL --quantize int8_wo`"),
        (["--format", "gptq"], 2, "is only read from checkpoints"),
        (["--format", "nvfp4"], 2, "needs no calibration; use `tpforge build MODEL --quantize nvfp4`"),
        (["--format", "fp8", "--group-size", "64"], 2, "has no groups"),
    ],
)
def test_what_cannot_be_made_is_refused_before_modelopt_is_installed(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    status: int,
    message: str,
) -> None:
    monkeypatch.setattr("scripts.flows.calibrate.cache_dir", lambda: tmp_path / "cache")

    assert main(["quantize", str(model), *words, "--out", str(tmp_path / "out")]) == status

    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "cache").exists()


def test_a_quantized_model_is_not_quantized_again(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quantize", str(made), "--format", "fp8", "--out", str(tmp_path / "out")]) == 4
    assert "two quantizations at once" in capsys.readouterr().err


def test_a_repaired_checkpoint_builds(model: Path, made: Path, tmp_path: Path) -> None:
    repair(model, made, progress=print)
    words = ["--max-seq-len", "320", "--max-input-len", "256", "--out", str(tmp_path / "engine")]

    assert main(["build", str(made), *words]) == 0

    config = json.loads((tmp_path / "engine" / "checkpoint" / "config.json").read_text())
    assert config["rotary_base"] == 5e5
    assert config["quantization"]["quant_algo"] == "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"
    shutil.rmtree(tmp_path / "engine")


def test_of_two_that_make_the_environment_the_second_waits_and_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    second: list[threading.Thread] = []

    def make() -> None:
        modelopt.environment(tmp_path, progress=lambda _: None)

    def run(command: list[str], *, what: str) -> None:
        asked.append(what)
        if what == "python -m venv":
            (tmp_path / f"modelopt-{modelopt.VERSION}").mkdir()
            second.append(threading.Thread(target=make))
            second[0].start()

    monkeypatch.setattr(modelopt, "_run", run)
    make()
    second[0].join()
    assert asked == ["python -m venv", "pip install nvidia-modelopt"]
