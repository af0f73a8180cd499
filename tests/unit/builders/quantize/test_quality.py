"""Quantized engines from the command line: built, proven, scored, not published when they lost too much."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.quality import measure_quality
from scripts.main import main
from tests.support.tiny import write_tiny_llama
from tests.support.tiny_engine import write_tiny_engine

OPTIONS = ["--max-seq-len", "320", "--max-input-len", "256"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(
        tmp_path_factory.mktemp("model"), num_heads=9, num_kv_heads=3, hidden_size=288, dtype="bfloat16"
    )


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, dict[str, Any], str]:
    status = main([*(str(word) for word in words), "--json"])
    captured = capsys.readouterr()
    return status, json.loads(captured.out or "{}"), captured.err


@pytest.mark.parametrize(
    ("name", "portable", "limit"),
    [
        ("int8_wo", False, 0.01),
        ("int8_wo", True, 0.01),
        ("int4_wo", False, 0.2),
        ("fp8_rowwise", False, 0.05),
        ("fp8_block", False, 0.05),
        ("mxfp4", False, 0.2),
        ("nvfp4", False, 0.2),
    ],
)
def test_a_quantized_engine_is_proven_with_its_own_values_and_scored_against_the_source(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str], name: str, portable: bool, limit: float
) -> None:
    words = ["--quantize", name, *(["--portable"] if portable else [])]
    status, built, errors = run(
        capsys, "build", model, "--tp", 2, *words, *OPTIONS, "--out", tmp_path / "engine"
    )
    assert status == 0, errors
    assert built["engine"]["quantization"]["form"] == ("portable" if portable else "packed")

    status, proof, errors = run(capsys, "verify", tmp_path / "engine")

    assert status == 0, errors
    assert proof["parity"]["passed"] and proof["parity"]["max_abs_logit_error"] < 2e-3
    quality = proof["quality"]
    assert quality["baseline"] == "the source in bfloat16"
    assert quality["perplexity_drop"] == pytest.approx(
        quality["perplexity"] / quality["baseline_perplexity"] - 1
    )
    assert 0 < abs(quality["perplexity_drop"]) < limit
    assert 0 < quality["mean_kl_divergence"] < limit
    activations = {"fp8_rowwise": "fp8", "fp8_block": "fp8", "nvfp4": "fp4"}.get(name)
    not_emulated = [f"activations are not rounded to {activations}"] if activations else []
    assert quality["not_emulated"] == not_emulated
    assert len(quality["weight_errors"]) == 10
    assert json.loads((tmp_path / "engine" / "engine.json").read_text())["quality"] == quality


def test_an_engine_that_lost_more_than_max_drop_is_not_published(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["build", model, "--quantize", "fp8_rowwise", *OPTIONS, "--out", tmp_path / "engine"]

    status, _, errors = run(capsys, *words, "--max-drop", "0.000001")

    assert status == 7
    assert "--max-drop allows 0.00%" in errors
    assert list(tmp_path.iterdir()) == []

    status, built, errors = run(capsys, *words, "--max-drop", "100")
    assert status == 0, errors
    assert built["engine"]["quality"]["max_drop"] == 100

    status, proof, errors = run(capsys, "verify", tmp_path / "engine", "--max-drop", "0.000001")
    assert status == 7
    assert proof["quality"]["max_drop"] == 100


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--quantize", "int3"], 2, "is unknown; known are int8_wo"),
        (["--quantize", "gptq"], 2, "is read from a checkpoint, not made"),
        (["--quantize", "int8_sq"], 2, "needs calibration; run `tpforge quantize"),
        (["--portable"], 2, "give --quantize FORMAT too"),
        (
            ["--quantize", "fp8_rowwise", "--portable"],
            2,
            "makes only int8_wo and int4_wo itself",
        ),
    ],
)
def test_what_cannot_be_made_is_refused_before_anything_is_written(
    tmp_path: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    message: str,
) -> None:
    found, _, errors = run(capsys, "build", model, *words, "--out", tmp_path / "engine")

    assert (found, list(tmp_path.iterdir())) == (status, [])
    assert message in errors


def test_perplexity_is_that_of_the_text_by_transformers(tmp_path: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM

    engine, manifest, source = write_tiny_engine(tmp_path, tp_size=2)
    quality = measure_quality(engine, manifest, source_path=source, progress=lambda text: None)

    tokenizer = Tokenizer.from_file(str(engine / "tokenizer" / "tokenizer.json"))
    text = (Path(__file__).parents[4] / "engines" / "quality_text.txt").read_text()
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    losses = []
    for first in range(0, len(ids), 320):
        window = torch.tensor([ids[first : first + 320]])
        with torch.inference_mode():
            logits = model(window).logits[0, :-1].double()
        chosen = logits.log_softmax(-1)[torch.arange(len(logits)), window[0, 1:]]
        losses += (-chosen).tolist()
    expected = float(torch.tensor(losses).mean().exp())
    assert quality.num_text_tokens == len(losses)
    assert quality.baseline_perplexity == pytest.approx(expected, rel=1e-5)
    # The engine is not quantized: nothing is lost.
    assert quality.perplexity == pytest.approx(expected, rel=1e-5)
    assert quality.num_greedy_equal == quality.num_greedy_tokens
