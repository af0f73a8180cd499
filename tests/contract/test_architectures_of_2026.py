"""Architectures that people serve in late 2026, by name alone: no command's advice is another's refusal.

A tiny folder whose config.json names the class and has the usual keys, with one tensor. Such a folder is no
whole model: what is judged is that inspect, build and plan agree on whose fault it is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from scripts.main import main
from tests.support.tiny import write_tiny_llama

RELEASE = "1.4.0rc1"
CLASSES = (
    "Qwen3NextForCausalLM",
    "Qwen3_5ForConditionalGeneration",
    "Qwen3_5MoeForConditionalGeneration",
    "GptOssForCausalLM",
    "DeepseekV3ForCausalLM",
    "DeepseekV4ForCausalLM",
    "KimiK25ForConditionalGeneration",
    "Glm4MoeForCausalLM",
    "GlmMoeDsaForCausalLM",
    "Llama4ForConditionalGeneration",
    "Gemma3nForConditionalGeneration",
    "Gemma4ForConditionalGeneration",
    "MiniMaxM2ForCausalLM",
    "NemotronHForCausalLM",
    "Mistral3ForConditionalGeneration",
    "Phi4MMForCausalLM",
    "Olmo3ForCausalLM",
    "SmolLM3ForCausalLM",
    "GraniteMoeHybridForCausalLM",
    "Exaone4ForCausalLM",
    "SeedOssForCausalLM",
    "HunYuanDenseV1ForCausalLM",
    "Gemma3ForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
)
LISTED_NOWHERE = ("Ministral3ForCausalLM", "Olmo2ForCausalLM", "FalconH1ForCausalLM", "Lfm2ForCausalLM")


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    model = write_tiny_llama(tmp_path / "model")
    named = {"architectures": [request.param], "model_type": "a_type_of_its_own"}
    config = json.loads((model / "config.json").read_text()) | named
    config |= {"num_experts": 4, "num_experts_per_tok": 2} if "Moe" in request.param else {}
    (model / "config.json").write_text(json.dumps(config))
    save_file({"model.embed_tokens.weight": torch.zeros(320, 64)}, model / "model.safetensors")
    return model


def pytorch_row(model: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["inspect", str(model), "--json"]) in (0, 4)
    (row,) = [row for row in json.loads(capsys.readouterr().out)["runtimes"] if row["runtime"] == "pytorch"]
    return dict(row)


def build(model: Path) -> int:
    return main(["build", str(model), "--runtime", "pytorch", "--trtllm", RELEASE, "--dry-run"])


@pytest.mark.parametrize("folder", CLASSES, indirect=True)
def test_a_class_that_is_served_is_refused_for_what_this_folder_lacks_alone(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = pytorch_row(folder, capsys)
    status = build(folder)
    said = capsys.readouterr().err
    assert status in (0, 4)
    if "--describe" in row["reason"]:
        assert not row["serves"] and status == 4 and "--describe" in said
    elif not row["serves"]:
        assert status == 4 and row["reason"].startswith("not as it is: ") and "are missing" in said
    elif status:
        assert "found no " in said or "is not a list" in said
        assert "--runtime pytorch" not in said and "which is not supported" not in said
    assert main(["plan", str(folder), "--gpu", "h100-sxm", "--isl", "20", "--osl", "20"]) in (0, 2, 4)
    assert "internal error" not in capsys.readouterr().err


@pytest.mark.parametrize("folder", LISTED_NOWHERE, indirect=True)
def test_a_class_that_tensorrt_llm_lists_nowhere_is_offered_by_no_runtime(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not pytorch_row(folder, capsys)["serves"]
    assert build(folder) == 4
    said = capsys.readouterr().err
    assert "versions --learn" in said and "use --runtime" not in said
