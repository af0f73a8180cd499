"""Padded Hugging Face checkpoints: the same logits as the original's, heads where rank files have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from engines.store import check_files, read_manifest
from scripts.main import main
from tests.support.tiny import write_tiny_llama, write_tiny_tokenizer

NINE_HEADS = {"num_heads": 9, "num_kv_heads": 3, "head_size": 8, "hidden_size": 72}
LIMITS = ["--max-seq-len", "64", "--max-batch-size", "4"]


def build(model: Path, out: Path, *options: str, runtime: str = "pytorch") -> int:
    return main(["build", str(model), "--runtime", runtime, "--out", str(out), *LIMITS, *options])


def logits(folder: Path) -> torch.Tensor:
    """Of two prompts, by transformers in float32; every tensor must have been found."""
    model, report = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    tokens = torch.tensor([[5, 17, 200, 3, 250, 81, 9, 44], [1, 2, 3, 4, 5, 6, 7, 8]])
    with torch.no_grad():
        found: torch.Tensor = model(tokens).logits
    return found


def write_qwen(folder: Path, config: Any) -> Path:
    """A seeded model with the biases and norms of its config; none of them is zero or one."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    write_tiny_tokenizer(folder, vocab_size=config.vocab_size)
    return folder


def qwen_sizes(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": 320,
        "hidden_size": 72,
        "intermediate_size": 130,
        "num_hidden_layers": 2,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 512,
        "dtype": "float32",
        "bos_token_id": 257,
        "eos_token_id": 256,
        **changes,
    }


def write_model(folder: Path, kind: str) -> Path:
    match kind:
        case "llama":
            return write_tiny_llama(folder, **NINE_HEADS, intermediate_size=130)  # type: ignore[arg-type]
        case "llama, biased, tied, of several files":
            return write_tiny_llama(folder, **NINE_HEADS, bias=True, tie=True, num_files=3)  # type: ignore[arg-type]
        case "mistral":
            architecture = "MistralForCausalLM"
            return write_tiny_llama(folder, **NINE_HEADS, architecture=architecture)  # type: ignore[arg-type]
        case "qwen2":
            return write_qwen(folder, Qwen2Config(**qwen_sizes(tie_word_embeddings=True)))
    return write_qwen(folder, Qwen3Config(**qwen_sizes(head_dim=16)))


KINDS = ["llama", "llama, biased, tied, of several files", "mistral", "qwen2", "qwen3"]


@pytest.mark.parametrize("tp", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_gives_the_same_logits_from_the_padded_checkpoint(
    tmp_path: Path, kind: str, tp: int
) -> None:
    model = write_model(tmp_path / "model", kind)
    assert build(model, tmp_path / "engine", "--tp", str(tp)) == 0
    padded = tmp_path / "engine" / "model"
    config = json.loads((padded / "config.json").read_text())
    assert (config["num_attention_heads"], config["num_key_value_heads"]) == (12, 4)
    assert config["head_dim"] == (16 if kind == "qwen3" else 8)
    expected = logits(model)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(logits(padded), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("tp", "width"), [(2, 130), (4, 132)])
def test_the_mlp_is_padded_where_tp_does_not_divide_it(tmp_path: Path, tp: int, width: int) -> None:
    model = write_model(tmp_path / "model", "llama")
    assert build(model, tmp_path / "engine", "--tp", str(tp)) == 0
    padded = tmp_path / "engine" / "model"
    assert json.loads((padded / "config.json").read_text())["intermediate_size"] == width
    tensors = load_file(padded / "model.safetensors")
    assert tensors["model.layers.1.mlp.down_proj.weight"].shape == (72, width)
    assert not tensors["model.layers.1.mlp.gate_proj.weight"][130:].any()


def test_zero_heads_lie_at_the_end_of_each_group_that_ranks_share(tmp_path: Path) -> None:
    sizes = {"num_heads": 6, "num_kv_heads": 2, "head_size": 4, "hidden_size": 24}
    model = write_tiny_llama(tmp_path / "model", **sizes, values="arange")  # type: ignore[arg-type]
    assert build(model, tmp_path / "engine", "--tp", "4") == 0
    before = load_file(model / "model.safetensors")
    after = load_file(tmp_path / "engine" / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    query, out = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.o_proj.weight"
    # Two ranks share each KV head: its three queries become four.
    zeros = torch.zeros(4, 24)
    rows = [*before[query].split(4)[:3], zeros, *before[query].split(4)[3:], zeros]
    columns = [*before[out].split(4, dim=1)[:3], zeros.T, *before[out].split(4, dim=1)[3:], zeros.T]
    assert torch.equal(after[query], torch.cat(rows))
    assert torch.equal(after[out], torch.cat(columns, dim=1))
    same = before.keys() - {
        f"model.layers.{layer}.self_attn.{x}_proj.weight" for layer in (0, 1) for x in "qo"
    }
    assert all(torch.equal(before[name], after[name]) for name in same)


@pytest.mark.parametrize("tp", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_rank_files_of_the_padded_checkpoint_are_those_of_the_original(
    tmp_path: Path, kind: str, tp: int
) -> None:
    model = write_model(tmp_path / "model", kind)
    assert build(model, tmp_path / "engine", "--tp", str(tp)) == 0
    for name, source in (("one", model), ("two", tmp_path / "engine" / "model")):
        assert build(source, tmp_path / name, "--tp", str(tp), runtime="reference") == 0
    hashes = [
        [file.sha256 for file in read_manifest(tmp_path / name).files if file.path.endswith(".safetensors")]
        for name in ("one", "two")
    ]
    assert len(hashes[0]) == tp
    assert hashes[0] == hashes[1]


def test_files_keep_their_tensors_types_and_index_and_the_manifest_has_their_hashes(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {**NINE_HEADS, "num_files": 3, "dtype": "bfloat16"}
    model = write_tiny_llama(tmp_path / "model", **sizes)
    (model / "consolidated.safetensors").write_bytes(b"another copy, not padded")
    assert build(model, tmp_path / "engine", "--tp", "2") == 0
    padded = tmp_path / "engine" / "model"
    before = json.loads((model / "model.safetensors.index.json").read_text())
    after = json.loads((padded / "model.safetensors.index.json").read_text())
    assert after["weight_map"] == before["weight_map"]
    total = 0
    for name in set(after["weight_map"].values()):
        with safe_open(padded / name, framework="pt") as file:
            assert file.metadata() == {"format": "pt"}
            assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.bfloat16}  # noqa: SIM118
            total += sum(file.get_tensor(key).nbytes for key in file.keys())  # noqa: SIM118
    assert after["metadata"]["total_size"] == total
    assert not (padded / "consolidated.safetensors").exists()
    for name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
        assert (padded / name).read_bytes() == (model / name).read_bytes()
    manifest = read_manifest(tmp_path / "engine")
    assert check_files(tmp_path / "engine", manifest) == []
    assert {"model/config.json", *(f"model/{name}" for name in after["weight_map"].values())} <= {
        file.path for file in manifest.files
    }
    assert manifest.padding.heads.num_heads == 12
    assert manifest.model.attention.num_heads == 9


def test_the_original_checkpoint_is_not_touched_though_other_files_are_linked(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "llama, biased, tied, of several files")
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    assert build(model, tmp_path / "engine", "--tp", "2") == 0
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_no_pad_is_refused_with_the_sizes_that_divide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", "llama, biased, tied, of several files")
    assert build(model, tmp_path / "engine", "--tp", "2", "--no-pad") == 4
    assert "use tp=1, or --pad" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "engine").exists()


def test_a_dry_run_says_what_would_be_padded_and_counts_only_files_that_stay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", "llama")
    assert build(model, tmp_path / "engine", "--tp", "2", "--sm", "90", "--dry-run", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert "attention heads 9/3 KV padded with zero heads to 12/4 for tp=2" in found["warnings"][0]
    names = {Path(path).name for path in found["files"]}
    assert names == {"generation_config.json", "tokenizer.json", "tokenizer_config.json"}


def edit(model: Path, **changes: Any) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, **changes}))


def test_quantized_weights_are_not_padded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_model(tmp_path / "model", "llama")
    edit(model, quantization_config={"quant_method": "modelopt", "quant_algo": "FP8"})
    assert build(model, tmp_path / "engine", "--tp", "2", "--sm", "90") == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "its weights are quantized (ModelOpt: quant_algo FP8), and only float ones are padded" in said
    assert "use tp=1, or --runtime tensorrt" in said


def test_weights_that_are_not_loaded_at_any_tp_are_refused_for_that_not_for_padding(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", "llama")
    edit(model, quantization_config={"quant_method": "gptq", "bits": 4, "group_size": 64})
    assert build(model, tmp_path / "engine", "--tp", "2", "--sm", "90") == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "no code path that loads GPTQ weights" in said and "use int4_awq" in said
    assert "use tp=1" not in said


def test_a_llama_whose_padded_heads_do_not_divide_hidden_size_is_padded_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes: dict[str, Any] = {"num_heads": 5, "num_kv_heads": 1, "head_size": 8, "hidden_size": 40}
    model = write_tiny_llama(tmp_path / "model", **sizes)
    assert build(model, tmp_path / "engine", "--tp", "3") == 0
    assert "6 heads do not divide hidden_size 40: transformers 5 refuses" in capsys.readouterr().err
    # Not so transformers 4.57, which TensorRT-LLM 1.2 has; the check is all that is taken away here.
    others = [one for one in LlamaConfig.__class_validators__ if one.__name__ != "validate_architecture"]
    assert len(others) < len(LlamaConfig.__class_validators__)
    monkeypatch.setattr(LlamaConfig, "__class_validators__", others)
    padded = tmp_path / "engine" / "model"
    assert AutoConfig.from_pretrained(padded).num_attention_heads == 6
    torch.testing.assert_close(logits(padded), logits(model), rtol=1e-5, atol=1e-5)


def test_attention_by_data_parallelism_needs_no_padding(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", "qwen3")
    options = ["--tp", "4", "--llm-arg", "enable_attention_dp=true"]
    assert build(model, tmp_path / "engine", *options, "--no-pad") == 0
    padded = tmp_path / "engine" / "model"
    assert (padded / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    # The copy has the release's spelling besides; what it says of the model is the same.
    written, given = (json.loads((folder / "config.json").read_text()) for folder in (padded, model))
    assert {key: written[key] for key in given} == given
    assert read_manifest(tmp_path / "engine").padding.notes == ()


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])
def test_attention_by_data_parallelism_is_refused_where_upstream_still_divides_the_mlp(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_model(tmp_path / "model", kind)
    argument = ["--llm-arg", "enable_attention_dp=true"]
    assert build(model, tmp_path / "engine", "--tp", "2", *argument, "--dry-run") == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "enable_attention_dp: TensorRT-LLM 1.2.1 divides the MLP of" in said
    assert build(model, tmp_path / "engine", "--tp", "1", *argument, "--dry-run") == 0


def test_a_family_whose_heads_are_fused_is_refused_with_the_sizes_that_divide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import Phi3Config

    sizes = qwen_sizes(pad_token_id=0, intermediate_size=128)
    model = write_qwen(tmp_path / "model", Phi3Config(**sizes))
    assert build(model, tmp_path / "engine", "--tp", "2", "--dry-run") == 4
    said = " ".join(capsys.readouterr().err.split())
    assert "no padded checkpoint is written of Phi3ForCausalLM" in said
    assert "use tp=1, or --runtime tensorrt" in said
