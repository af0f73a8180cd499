"""What is wrong with a checkpoint is refused by its names, before any output is there, at once."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.sources.safetensors_reader import SafetensorsFile
from scripts.main import main
from tests.support.tiny import write_tiny_llama

Break = Callable[[Path], Any]
SHARD = "model-00001-of-00002.safetensors"
INDEX = "model.safetensors.index.json"
KEY = "model.layers.0.self_attn.q_proj.weight"


def change_tensors(change: Callable[[dict[str, torch.Tensor]], Any]) -> Break:
    """Change what a checkpoint of two files holds, and its index with it."""

    def apply(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        for name in sorted(set(index["weight_map"].values())):
            tensors = {key: one.clone() for key, one in load_file(folder / name).items()}
            if KEY in tensors:
                change(tensors)
                others = {key: file for key, file in index["weight_map"].items() if file != name}
                index["weight_map"] = others | dict.fromkeys(tensors, name)
                save_file(tensors, folder / name)
        (folder / INDEX).write_text(json.dumps(index))

    return apply


def change_index(change: Callable[[dict[str, str]], Any]) -> Break:
    def apply(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return apply


def change_header(change: Callable[[dict[str, Any]], Any]) -> Break:
    def apply(folder: Path) -> None:
        content = (folder / SHARD).read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        (folder / SHARD).write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])

    return apply


def raw_header(text: bytes, *, claimed: int | None = None) -> Break:
    length = len(text) if claimed is None else claimed
    return lambda folder: (folder / SHARD).write_bytes(length.to_bytes(8, "little") + text)


def truncated(folder: Path) -> None:
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1])


def in_two_files(folder: Path) -> None:
    other = folder / "model-00002-of-00002.safetensors"
    save_file(load_file(other) | {KEY: load_file(folder / SHARD)[KEY].clone()}, other)


def moved(header: dict[str, Any], *, by: int) -> None:
    entry = header[KEY]["data_offsets"]
    header[KEY]["data_offsets"] = [entry[0] + by, entry[1] + by]


def edit_config(**changes: Any) -> Break:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return apply


def edit_tokenizer(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 320, "content": "<new>"})
    path.write_text(json.dumps(content))


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 128}

BROKEN: dict[str, tuple[Break, tuple[str, ...]]] = {
    "one tensor renamed": (
        change_tensors(lambda held: held.update({"model.layers.0.self_attn.query.weight": held.pop(KEY)})),
        ("model.layers.0.self_attn.query.weight: unknown to the llama family", f"{KEY}: missing"),
    ),
    "one tensor missing": (change_tensors(lambda held: held.pop(KEY)), (f"{KEY}: missing",)),
    "one tensor more": (
        change_tensors(lambda held: held.update({"model.layers.0.gate.weight": torch.zeros(2)})),
        ("model.layers.0.gate.weight: unknown to the llama family",),
    ),
    "one tensor transposed": (
        change_tensors(lambda held: held.update({KEY: torch.zeros(64, 96)})),
        (f"{KEY}: found shape [64, 96], config.json implies [96, 64] (transposed)",),
    ),
    "one tensor of integers": (
        change_tensors(lambda held: held.update({KEY: torch.zeros(96, 64, dtype=torch.int8)})),
        (f"{KEY}: found a type that is not float32, float16 or bfloat16",),
    ),
    "a truncated file": (truncated, (f"{SHARD}: truncated: found ", "bytes, expected ")),
    "a key in two shards": (
        in_two_files,
        (f"{KEY}: in {SHARD} and in model-00002-of-00002.safetensors",),
    ),
    "an index that leaves the directory": (
        change_index(lambda held: held.update({KEY: "../../etc/passwd"})),
        ("../../etc/passwd: points outside the directory",),
    ),
    "an index that names another file": (
        change_index(lambda held: held.update({KEY: "model-00002-of-00002.safetensors"})),
        (f"{KEY}: in {SHARD}, the index says model-00002-of-00002.safetensors",),
    ),
    "an index that names what is not there": (
        change_index(lambda held: held.update(ghost=SHARD)),
        (f"ghost: not in {SHARD}, where the index says it is",),
    ),
    "an index with a key twice": (
        lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": "x", "a": "y"}}'),
        (f"{INDEX}: given twice: a; each key may be given once",),
    ),
    "a header that claims 2^60 bytes": (
        raw_header(b"{}", claimed=1 << 60),
        (f"{SHARD}: not a safetensors file: its header claims {1 << 60} bytes",),
    ),
    "offsets that overlap": (
        change_header(lambda header: moved(header, by=-4)),
        (f"{SHARD}: its header is broken: ", "overlaps the tensor before it"),
    ),
    "offsets with a gap": (
        change_header(lambda header: moved(header, by=4)),
        (f"{SHARD}: its header is broken: ", "leaves a hole after the tensor before it"),
    ),
    "a header that is not UTF-8": (raw_header(b'{"\xff": 1}'), (f"{SHARD}: not valid JSON: 'utf-8' codec",)),
    "a header with half a character": (raw_header(b'{"\\ud800": {}}'), ("half a surrogate pair",)),
    "a header nested deeply": (
        raw_header(b'{"a":' * 90 + b"1" + b"}" * 90),
        ("nested deeper than 64 levels",),
    ),
    "a header nested beyond Python": (raw_header(b"[" * 10**6), (f"{SHARD}: not valid JSON: ",)),
    "a header with a key twice": (
        raw_header(b'{"a": {}, "a": {}}'),
        (f"{SHARD}: given twice: a; each key may be given once",),
    ),
    "a Git LFS pointer": (
        lambda folder: (folder / SHARD).write_text("version https://git-lfs.github.com/spec/v1\nsize 1\n"),
        (f"{SHARD}: is a Git LFS pointer, not the file itself; run `git lfs pull`",),
    ),
    "rope fields that disagree": (
        edit_config(rope_scaling=LLAMA3, rope_parameters=LLAMA3 | {"factor": 4.0, "rope_theta": 5e5}),
        (
            "config.json: rope_scaling: differs from rope_parameters (factor 8.0 against 4.0)",
            "config.json: rope_theta: found 10000.0, but rope_parameters has 500000.0",
        ),
    ),
    "a tokenizer larger than the embedding": (
        edit_tokenizer,
        ("tokenizer.json: token '<new>' has id 320, but the embedding has 320 rows",),
    ),
    "quantized weights": (
        edit_config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("config.json: the weights are quantized (bitsandbytes: load_in_4bit True)",),
    ),
    "an architecture for another runtime": (
        edit_config(architectures=["Qwen3NextForCausalLM"]),
        (
            "no TensorRT-LLM checkpoint format holds Qwen3NextForCausalLM; the pytorch runtime "
            "(TensorRT-LLM's LLM API, 1.2.0 and later) loads the Hugging Face checkpoint as it is",
            "config.json: found no num_experts, expected it in the config of Qwen3NextForCausalLM",
        ),
    ),
    "an unknown architecture": (
        edit_config(architectures=["NobodyForCausalLM"]),
        ("found architecture NobodyForCausalLM, which is not supported; known are ",),
    ),
}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # 6 heads of 16 on a hidden size of 64, so that no projection is square; in two files by turns.
    folder = write_tiny_llama(tmp_path / "model", num_files=1, num_heads=6, num_kv_heads=3)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    first = {name: one for name, one in tensors.items() if ".0." in name}
    save_file(first, folder / SHARD)
    second = {name: one for name, one in tensors.items() if name not in first}
    save_file(second, folder / "model-00002-of-00002.safetensors")
    weight_map = dict.fromkeys(first, SHARD) | dict.fromkeys(second, "model-00002-of-00002.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return folder


def test_the_checkpoint_that_is_broken_below_is_sound(model: Path) -> None:
    assert main(["inspect", str(model)]) == 0


@pytest.mark.parametrize("arguments", [("convert", "--tp", "3"), ("build",)], ids=" ".join)
@pytest.mark.parametrize("name", BROKEN)
def test_it_is_refused_with_the_names_before_any_output_and_before_any_weight_is_read(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    arguments: tuple[str, ...],
) -> None:
    break_it, words = BROKEN[name]
    break_it(model)
    read: list[str] = []
    monkeypatch.setattr(SafetensorsFile, "read", lambda _file, tensor: read.append(tensor))
    before = sorted(Path.cwd().rglob("*"))
    assert main([arguments[0], str(model), *arguments[1:]]) == 4
    assert read == []
    captured = capsys.readouterr()
    assert [word for word in words if word not in captured.err] == []
    assert captured.out == ""
    assert sorted(Path.cwd().rglob("*")) == before


@pytest.mark.parametrize("name", BROKEN)
def test_inspect_describes_it_and_then_lists_the_same_problems(
    model: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    break_it, words = BROKEN[name]
    break_it(model)
    assert main(["inspect", str(model), "--json"]) == 4
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert [word for word in words if not any(word in problem for problem in found["problems"])] == []
    assert [word for word in words if word not in captured.err] == []
    assert found["files"][0]["name"] == "config.json"
    assert found["architecture"].endswith("ForCausalLM")


def test_the_problems_of_different_parts_are_listed_together(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = (
        "one tensor renamed",
        "an index that names what is not there",
        "rope fields that disagree",
    )
    for name in names:
        BROKEN[name][0](model)
    truncate_other = model / "model-00002-of-00002.safetensors"
    truncate_other.write_bytes(truncate_other.read_bytes()[:-1])
    for command in ("convert", "inspect"):
        assert main([command, str(model)]) == 4
        message = capsys.readouterr().err
        assert [word for name in names for word in BROKEN[name][1] if word not in message] == []
        assert "model-00002-of-00002.safetensors: truncated" in message


def test_a_problem_of_many_layers_takes_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_tiny_llama(tmp_path / "model", num_layers=9)
    edit_config(num_hidden_layers=18)(folder)
    assert main(["convert", str(folder), "--out", str(tmp_path / "out")]) == 4
    message = capsys.readouterr().err
    assert "model.layers.10.input_layernorm.weight and 8 more like it: missing" in message
    assert len([line for line in message.splitlines() if line.startswith("  ")]) == 9
    assert main(["inspect", str(folder), "--json"]) == 4
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 9 * 9
