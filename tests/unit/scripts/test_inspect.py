"""tpforge inspect: what it says of a checkpoint, against what is known of it and what convert writes."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.sources.mapped_file import MappedFile
from scripts.main import main
from tests.support.checkpoints.sparse import LLAMA_70B, write_sparse
from tests.support.families.cases import CASES
from tests.support.families.configs import write_tiny_family
from tests.support.tiny import tiny_shapes, write_tiny_llama


def inspect(capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0) -> dict[str, Any]:
    assert main(["inspect", *(str(one) for one in arguments), "--json"]) == status
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert (found["schema_version"], found["kind"]) == (1, "inspection")
    return found


def edit_config(folder: Path, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return folder


def test_a_checkpoint_is_described_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny_llama(tmp_path, num_files=2, rope_scaling={"rope_type": "linear", "factor": 2.0})
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    found = inspect(capsys, folder)
    assert (found["architecture"], found["family"], found["license"]) == ("LlamaForCausalLM", "llama", "mit")
    assert found["model"]["rope"]["scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert found["stored_types"] == {"F32": 21}
    assert found["num_tensors"] == 21
    assert found["tokenizer"] == {
        "files": ["generation_config.json", "tokenizer.json", "tokenizer_config.json"],
        "num_ids": json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"].__len__(),
        "has_chat_template": True,
    }
    assert {one["name"]: one["bytes"] for one in found["files"]} == {
        path.name: path.stat().st_size for path in folder.iterdir()
    }
    assert (found["quantization"], found["problems"], found["warnings"]) == (None, [], [])


def test_the_table_for_people_has_every_fact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(write_tiny_llama(tmp_path)), "--tp", "2"]) == 0
    out = capsys.readouterr().out
    rows = dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)
    facts = {what: value.strip() for what, value in rows.items()}
    assert facts["attention heads"] == "4, 2 KV"
    assert facts["positions"] == "rope, base 10000"
    assert facts["context"] == "512 positions"
    assert facts["experts"] == "none"
    assert facts["chat template"] == "yes"
    assert facts["reference"].split() == ["yes", "-", "from", "a", "converted", "checkpoint"]
    assert facts["tensorrt"].startswith("yes     1.2.0 to 1.2.1")
    assert facts["pytorch"].startswith("yes     1.0.0 and later")


@pytest.mark.parametrize(
    ("arguments", "mapping"),
    [((), (1, 1, 1)), (("--tp", "4", "--pp", "2"), (4, 2, 1)), (("--tp", "4", "--moe-ep", "2"), (4, 1, 2))],
    ids=str,
)
def test_the_bytes_of_every_rank_are_those_that_convert_writes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    mapping: tuple[int, int, int],
) -> None:
    case = next(case for case in CASES if case.name == "mixtral")
    write_tiny_family(tmp_path / "model", case)
    found = inspect(capsys, tmp_path / "model", *arguments)
    assert [one.split(": ")[1][:18] for one in found["warnings"]] == ["found no tokenizer"]
    assert main(["convert", str(tmp_path / "model"), *arguments, "--out", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    written = [
        (tmp_path / "out" / f"rank{rank}.safetensors").stat().st_size
        for rank in range(math.prod(mapping[:2]))
    ]
    assert found["asked"]["rank_bytes"] == written
    assert tuple(found["asked"][key] for key in ("tp", "pp", "moe_ep")) == mapping


def test_padding_costs_the_zeros_that_are_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny_llama(tmp_path / "model", num_heads=3, num_kv_heads=3, vocab_size=321, seed=1)
    found = inspect(capsys, folder, "--tp", "2")
    assert main(["convert", str(folder), "--tp", "2", "--out", str(tmp_path / "out")]) == 0
    zeros = 0
    for rank in range(2):
        for tensor in load_file(tmp_path / "out" / f"rank{rank}.safetensors").values():
            zeros += int((tensor == 0).sum()) * tensor.element_size()
    # The random weights themselves hold no zero: a head of zeros in q, k, v and dense, a row of the LM head.
    head = 16 * 64 * 4
    assert zeros == 2 * 4 * head + 64 * 4
    assert found["asked"]["padding_bytes"] == zeros
    assert "attention heads 3/3 KV padded with zero heads to 4/4 for tp=2" in found["asked"]["division"]
    by_tp = {one["tp"]: one["padding_bytes"] for one in found["divisions"]}
    assert (by_tp[1], by_tp[2]) == (0, zeros)


def test_stages_that_would_be_empty_are_impossible(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny_llama(tmp_path)
    stages = {one["pp"]: one["division"] for one in inspect(capsys, folder)["stages"]}
    assert stages[2] == "4 heads, 2 KV per rank"
    assert stages[4].startswith("impossible: pp=4 leaves a stage without layers: the model has 2")
    asked = inspect(capsys, folder, "--pp", "4", status=4)
    assert asked["problems"] == [stages[4]]


METHODS: dict[str, tuple[dict[str, Any], str]] = {
    "gptq": (
        {"bits": 4, "group_size": 128, "desc_act": False},
        "GPTQ: bits 4, group_size 128",
    ),
    "awq": ({"bits": 4, "group_size": 64, "zero_point": True}, "AWQ: bits 4, group_size 64, zero_point True"),
    "fp8": (
        {"activation_scheme": "dynamic", "weight_block_size": [128, 128]},
        "FP8: activation_scheme dynamic, weight_block_size [128, 128]",
    ),
    "bitsandbytes": ({"load_in_4bit": True}, "bitsandbytes: load_in_4bit True"),
    "compressed-tensors": (
        {
            "format": "float-quantized",
            "config_groups": {
                "group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}
            },
        },
        "compressed-tensors: format float-quantized, num_bits 8, type float, strategy channel",
    ),
    "modelopt": ({"quant_algo": "NVFP4", "group_size": 16}, "ModelOpt: quant_algo NVFP4, group_size 16"),
}


@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_that_calls_its_floats_quantized_is_described_and_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    fields, title = METHODS[method]
    folder = edit_config(write_tiny_llama(tmp_path), quantization_config={"quant_method": method} | fields)
    assert main(["inspect", str(folder)]) == 4
    assert f"quantization     {title}" in capsys.readouterr().out.splitlines()
    found = inspect(capsys, folder, status=4)
    assert found["problems"][0].startswith(f"{folder / 'config.json'}: ")
    assert found["quantization"]["method"] == method
    assert found["model"]["num_layers"] == 2
    assert found["num_parameters"] == sum(
        math.prod(shape) for shape in tiny_shapes(json.loads((folder / "config.json").read_text())).values()
    )
    serves = {one["runtime"]: one["serves"] for one in found["runtimes"]}
    loads = method in ("fp8", "compressed-tensors", "modelopt")
    assert serves == {"reference": False, "tensorrt": False, "pytorch": loads}


def test_modelopts_own_file_is_read_and_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny_llama(tmp_path)
    quantization = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": quantization}))
    found = inspect(capsys, folder, status=4)
    assert found["quantization"]["details"] == quantization
    assert found["quantization"]["declared_in"] == "hf_quant_config.json"
    edit_config(folder, quantization_config={"quant_method": "modelopt", "quant_algo": "NVFP4"})
    problems = inspect(capsys, folder, status=4)["problems"]
    assert any(
        "hf_quant_config.json says ModelOpt: quant_algo FP8" in one
        and "config.json says ModelOpt: quant_algo NVFP4" in one
        for one in problems
    )


def test_an_unknown_architecture_is_described_by_its_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = edit_config(write_tiny_llama(tmp_path), architectures=["Qwen3NextForCausalLM"])
    assert main(["inspect", str(folder)]) == 4
    captured = capsys.readouterr()
    assert "layers           2 (as config.json says)" in captured.out
    assert "weights          F32 (21 tensors)" in captured.out
    assert "pytorch    yes     1.2.0 and later" in captured.out
    assert "loads the Hugging Face checkpoint as it is. Nothing was written." in captured.err


def test_no_runtime_is_offered_where_no_table_has_the_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = edit_config(write_tiny_llama(tmp_path / "model"), architectures=["Phi4MMForCausalLM"])
    assert main(["inspect", str(folder)]) == 4
    assert "pytorch    no      1.0.0 and later  its sizes are in no table: state them, --describe FILE" in (
        capsys.readouterr().out
    )
    assert main(["build", str(folder), "--runtime", "pytorch", "--out", str(tmp_path / "engine")]) == 4
    assert "--describe" in capsys.readouterr().err


def test_other_weights_in_the_directory_are_warned_of_and_training_state_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_tiny_llama(tmp_path)
    for name in ("pytorch_model.bin", "consolidated.00.pth", "training_args.bin", "model.gguf"):
        (folder / name).write_bytes(b"")
    save_file({"x": torch.zeros(1)}, folder / "consolidated.safetensors")
    warned = [one.split(": ")[0] for one in inspect(capsys, folder)["warnings"]]
    assert warned == ["pytorch_model.bin", "consolidated.00.pth", "consolidated.safetensors", "model.gguf"]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_deep_finds_nan_and_infinite_weights_and_says_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    folder = write_tiny_llama(tmp_path, dtype=dtype)
    assert inspect(capsys, folder, "--deep")["problems"] == []
    path = folder / "model.safetensors"
    tensors = {name: one.clone() for name, one in load_file(path).items()}
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = float("nan")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("inf")
    tensors["model.norm.weight"][:] = 3e38  # finite, though its sum is not
    tensors["lm_head.weight"][7, 1] = float("-inf")
    save_file(tensors, path)
    assert inspect(capsys, folder)["problems"] == []
    assert inspect(capsys, folder, "--deep", status=4)["problems"] == [
        "lm_head.weight: found 0 NaN and 1 infinite values, the first at [7, 1]",
        "model.layers.1.mlp.up_proj.weight: found 1 NaN and 1 infinite values, the first at [3, 4]",
    ]


def test_rope_fields_that_agree_are_no_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    both = {
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "rope_parameters": scaling | {"rope_theta": 10000.0},
    }
    assert inspect(capsys, edit_config(write_tiny_llama(tmp_path), **both))["problems"] == []
    edit_config(tmp_path, rope_parameters=None, rope_scaling=scaling | {"type": "dynamic"})
    assert [one.split("json: ")[1] for one in inspect(capsys, tmp_path, status=4)["problems"]] == [
        "rope_scaling: its rope_type is 'linear', its type 'dynamic'; they mean the same field"
    ]


def header_bytes(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def test_a_checkpoint_of_70_billion_parameters_is_described_from_its_headers_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_sparse(tmp_path, LLAMA_70B)
    files = sorted(folder.glob("*.safetensors"))
    assert sum(path.stat().st_size for path in files) > 141e9
    read = 0
    original = MappedFile.bytes

    def counted(self: MappedFile, start: int, stop: int) -> bytes:
        nonlocal read
        content = original(self, start, stop)
        read += len(content)
        return content

    monkeypatch.setattr(MappedFile, "bytes", counted)
    monkeypatch.setattr(MappedFile, "tensor", lambda *_, **__: pytest.fail("read weights"))
    found = inspect(capsys, folder, "--tp", "8")
    assert (found["num_tensors"], found["num_parameters"]) == (723, 70_553_706_496)
    headers = sum(header_bytes(path) for path in files)
    # Beside the header, its length, and the beginning, which could be that of a Git LFS pointer.
    assert read == headers + len(files) * (8 + 64) < 100_000
    assert len(set(found["asked"]["rank_bytes"])) == 1


def test_inspect_does_not_import_torch(tmp_path: Path) -> None:
    """Its import takes longer than everything else that inspect does."""
    folder = write_tiny_llama(tmp_path)
    code = (
        "import sys\nfrom scripts.main import main\n"
        "main(['inspect', sys.argv[1]])\nprint('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "False"
