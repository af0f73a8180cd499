"""builders.sources: what is opened, what is read, and what is refused with which words."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.sources import open_source
from tests.support.tiny import write_tiny_llama
from tpforge.dtypes import DType
from tpforge.errors import EnvironmentUnusable, InputRefused, UsageError


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(location: Path | str) -> str:
    with pytest.raises(InputRefused) as caught, open_source(str(location)):
        pass
    return str(caught.value)


@pytest.mark.parametrize("num_files", [1, 3])
def test_every_tensor_is_read_as_safetensors_reads_it(tmp_path: Path, num_files: int) -> None:
    model = write_tiny_llama(tmp_path, num_files=num_files, dtype="bfloat16")
    expected: dict[str, torch.Tensor] = {}
    for path in model.glob("*.safetensors"):
        expected |= load_file(path)
    with open_source(str(model)) as source:
        assert set(source.shapes) == set(expected)
        for name, tensor in expected.items():
            assert source.shapes[name] == tuple(tensor.shape)
            assert source.dtypes[name] is DType.BFLOAT16
            assert torch.equal(source.read(name), tensor)


def test_a_header_of_odd_size_is_read_too(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path)
    path = model / "model.safetensors"
    expected = {name: tensor.clone() for name, tensor in load_file(path).items()}
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip() + b" "
    header += b" " * (1 - len(header) % 2)  # odd, so that no tensor is aligned
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])
    with open_source(str(model)) as source:
        for name, tensor in expected.items():
            assert torch.equal(source.read(name), tensor)


def test_input_files_are_those_that_decide_the_result(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path, num_files=2)
    (model / "pytorch_model.bin").write_bytes(b"never opened")
    with open_source(str(model)) as source:
        assert [path.name for path in source.input_files] == [
            "config.json",
            "generation_config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "tokenizer.json",
            "tokenizer_config.json",
        ]
        assert (source.kind, source.revision, source.license) == ("huggingface", None, None)


def test_license_and_revision_are_found_where_they_are_stated(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--org--name" / "snapshots" / ("0123456789" * 4)
    write_tiny_llama(snapshot)
    (snapshot / "README.md").write_text("---\ntags: [x]\nlicense: apache-2.0\n---\n# License: other\n")
    with open_source(str(snapshot)) as source:
        assert (source.license, source.revision) == ("apache-2.0", "0123456789" * 4)


def test_the_symbolic_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    real = write_tiny_llama(tmp_path / "blobs", num_files=2)
    linked = tmp_path / "snapshots" / "0123456789"
    linked.mkdir(parents=True)
    for path in real.iterdir():
        (linked / path.name).symlink_to(Path("..") / ".." / "blobs" / path.name)
    with open_source(str(linked)) as source:
        assert len(source.shapes) == 21


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000000])


def rewrite_header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "model.safetensors"
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


def set_weights(content: bytes) -> Callable[[Path], Any]:
    return lambda folder: (folder / "model.safetensors").write_bytes(content)


def set_entry(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: rewrite_header(folder, lambda header: header["lm_head.weight"].update(changes))


def lfs(name: str) -> Callable[[Path], Any]:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    return lambda folder: (folder / name).write_text(text)


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def unindexed_shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


def duplicate_key(folder: Path) -> None:
    entry = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    header = b'{"a":' + entry + b',"a":' + entry + b"}"
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)


def overlap(folder: Path) -> None:
    offsets = {"data_offsets": [0, 81920]}  # lm_head.weight's
    rewrite_header(folder, lambda header: header["model.embed_tokens.weight"].update(offsets))


HEADER = (99).to_bytes(8, "little")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda folder: (folder / "config.json").unlink(), "found no config.json; expected a Hugging Face"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json: not valid JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "found a JSON list, expected an object"),
        (lambda folder: (folder / "config.json").write_text("[" * 99999), "config.json: not valid JSON"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff"), "config.json: not valid JSON"),
        (lfs("config.json"), "config.json: is a Git LFS pointer, not the file itself; run `git lfs pull`"),
        (lfs("model.safetensors"), "model.safetensors: is a Git LFS pointer"),
        (lfs("tokenizer.json"), "tokenizer.json: is a Git LFS pointer"),
        (lambda folder: (folder / "model.safetensors").unlink(), "found no weights; expected model.safet"),
        (only_pickles, "found only pickled weights (pytorch_model.bin), which can run code and are never"),
        (unindexed_shards, "but neither model.safetensors nor model.safetensors.index.json"),
        (set_weights(b""), "truncated: found 0 bytes, expected at least 8"),
        (set_weights(b"PK\3\4" * 9), "not a safetensors file: its header claims"),
        (set_weights(HEADER + b"{"), "truncated: found 9 bytes, expected 107"),
        (set_weights((2).to_bytes(8, "little") + b"xx"), "not valid JSON"),
        (duplicate_key, "model.safetensors: given twice: a; each key may be given once"),
        (set_entry(dtype="F99"), "lm_head.weight: unknown dtype 'F99'"),
        (set_entry(shape=[-1]), "lm_head.weight: shape [-1] is not a list of sizes"),
        (set_entry(shape=[3, 64]), "lm_head.weight: F32 [3, 64] takes 768 bytes, data_offsets hold 81920"),
        (set_entry(data_offsets=[0, "x"]), "lm_head.weight: data_offsets [0, 'x'] are not [begin, end]"),
        (overlap, "model.embed_tokens.weight overlaps the tensor before it"),
        (set_entry(data_offsets=[10**12, 10**12 + 81920]), "leaves a hole after the tensor before it"),
    ],
)
def test_a_broken_directory_is_refused_in_one_message(
    tmp_path: Path, break_it: Callable[[Path], Any], words: str
) -> None:
    break_it(write_tiny_llama(tmp_path))
    message = refusal(tmp_path)
    assert words in message
    assert str(tmp_path) in message


def test_a_truncated_file_says_how_many_bytes_were_found_and_expected(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path) / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-7])
    assert f"{path}: truncated: found {size - 7} bytes, expected {size}; download it again" in refusal(
        tmp_path
    )
    path.write_bytes(path.read_bytes() + b"\0" * 8)
    assert f"found {size + 1} bytes, but its header describes {size}" in refusal(tmp_path)


def edit_index(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    "name",
    ["../evil.safetensors", "/etc/evil.safetensors", "a/../../evil.safetensors", "..\\evil.safetensors"],
)
def test_an_index_that_leaves_the_directory_is_refused(tmp_path: Path, name: str) -> None:
    model = write_tiny_llama(tmp_path / "model", num_files=2)
    save_file({"x": torch.zeros(1)}, tmp_path / "evil.safetensors")
    edit_index(model, lambda weight_map: weight_map.update(x=name))
    assert f"{name}: points outside the directory" in refusal(model)


def test_an_index_that_names_a_pickle_is_refused(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path, num_files=2)
    edit_index(model, lambda weight_map: weight_map.update(x="pytorch_model.bin"))
    assert "pytorch_model.bin: not a .safetensors file" in refusal(model)


def test_all_missing_files_of_an_index_are_listed(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path, num_files=4)
    for number in (2, 4):
        (model / f"model-0000{number}-of-00004.safetensors").unlink()
    message = refusal(model)
    assert "model-00002-of-00004.safetensors: missing" in message
    assert "model-00004-of-00004.safetensors: missing" in message


def test_all_disagreements_between_index_and_files_are_listed(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path, num_files=2)

    def change(weight_map: dict[str, str]) -> None:
        one, other = sorted(set(weight_map.values()))
        weight_map["ghost"] = one
        del weight_map["model.norm.weight"]
        wrong = "lm_head.weight"
        weight_map[wrong] = other if weight_map[wrong] == one else one

    edit_index(model, change)
    message = refusal(model)
    assert "ghost: not in model-00001-of-00002.safetensors, where the index says it is" in message
    assert "model.norm.weight: in model-0000" in message
    assert "lm_head.weight: in model-00001-of-00002.safetensors, the index says model-00002" in message


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path, num_files=2)
    path = model / "model-00002-of-00002.safetensors"
    save_file(load_file(path) | {"model.embed_tokens.weight": torch.zeros(1)}, path)
    assert "model.embed_tokens.weight: in model-00001-of-00002.safetensors and in model-00002" in refusal(
        model
    )


def test_an_index_beside_a_single_file_it_does_not_name_is_refused(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path, num_files=2)
    save_file({"x": torch.zeros(1)}, model / "model.safetensors")
    assert "found both model.safetensors and model.safetensors.index.json" in refusal(model)


def test_an_unknown_architecture_lists_the_known_ones_and_says_nothing_was_spent(tmp_path: Path) -> None:
    edit_config(write_tiny_llama(tmp_path), architectures=["MambaForCausalLM"])
    message = refusal(tmp_path)
    assert "found architecture MambaForCausalLM, which is not supported" in message
    assert "LlamaForCausalLM, MistralForCausalLM" in message.split("known are ")[1]
    assert "nothing was written" in message


def test_code_of_the_checkpoint_is_never_run(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model")
    witness = tmp_path / "ran"
    (model / "modeling_evil.py").write_text(f"open({str(witness)!r}, 'w')\n")
    auto_map = {"AutoConfig": "modeling_evil.Config", "AutoTokenizer": ["modeling_evil.Tokenizer", None]}
    edit_config(model, auto_map=auto_map)
    path = model / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"auto_map": auto_map}))
    (tmp_path / "out").mkdir()
    with open_source(str(model)) as source:
        source.write_tokenizer(tmp_path / "out")
    assert not witness.exists()
    assert "auto_map" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())


def test_the_tokenizer_is_copied_as_it_is(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model")
    out = tmp_path / "out"
    out.mkdir()
    with open_source(str(model)) as source:
        source.write_tokenizer(out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        name: (model / name).read_bytes()
        for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json")
    }


def test_a_directory_without_a_tokenizer_says_what_is_expected(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path, vocab_size=40)
    with open_source(str(model)) as source, pytest.raises(InputRefused, match=r"expected tokenizer\.json"):
        source.write_tokenizer(tmp_path)


@pytest.mark.parametrize("location", ["./absent", "/absent/model", "absent", "a/b/c", "../x", "x/model.gguf"])
def test_what_looks_like_a_path_is_never_asked_of_the_hub(
    location: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("asked the hub"))
    assert f"{location}: no such file or directory; expected a Hugging Face directory" in refusal(location)


def test_a_revision_of_a_directory_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a revision can be given for hub ids only"):
        open_source(str(write_tiny_llama(tmp_path)), revision="main")


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "is a file of weights; expected a Hugging Face" in refusal(tmp_path / "model.safetensors")


def test_no_permission_is_the_environments_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_tiny_llama(tmp_path)

    true_open = os.open

    def refuse(path: Any, *arguments: Any) -> int:
        if str(path).endswith(".safetensors"):
            raise PermissionError(13, "Permission denied")
        return true_open(path, *arguments)

    monkeypatch.setattr("builders.sources.mapped_file.os.open", refuse)
    with pytest.raises(EnvironmentUnusable, match=r"model\.safetensors: no permission to read it"):
        open_source(str(model))
