"""builders.sources.gguf: a .gguf gives the very tensors and config of the checkpoint it was made from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize

from builders.sources import open_source
from builders.sources.gguf import GgufSource, unpermute
from builders.sources.gguf_metadata import llama3_factors, shortest_float32
from tests.support.conversions import convert_to, load_ranks, load_source
from tests.support.tiny import write_tiny_llama
from tpforge.dtypes import DType
from tpforge.errors import InputRefused

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    if name in NAMES:
        return NAMES[name]
    layer, rest = name.removeprefix("model.layers.").split(".", 1)
    role, suffix = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[role]}.{suffix}"


def permute(weights: np.ndarray[Any, Any], num_heads: int) -> np.ndarray[Any, Any]:
    """As llama.cpp's conversion script states it."""
    rows = weights.shape[0]
    return (
        weights.reshape(num_heads, 2, rows // num_heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def write_gguf(
    model: Path,
    path: Path,
    *,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    architecture: str = "llama",
    extra: dict[str, Any] | None = None,
    rope_factors: list[float] | None = None,
    leave_out: tuple[str, ...] = (),
    tensors_a_part: int = 0,
) -> Path:
    """What llama.cpp would make of a tiny checkpoint directory; in parts when a part has so many tensors."""
    config = json.loads((model / "config.json").read_text())
    writer = GGUFWriter(path, architecture, split_max_tensors=tensors_a_part)
    values: dict[str, Any] = {
        f"{architecture}.block_count": config["num_hidden_layers"],
        f"{architecture}.context_length": config["max_position_embeddings"],
        f"{architecture}.embedding_length": config["hidden_size"],
        f"{architecture}.feed_forward_length": config["intermediate_size"],
        f"{architecture}.attention.head_count": config["num_attention_heads"],
        f"{architecture}.attention.head_count_kv": config["num_key_value_heads"],
        f"{architecture}.attention.key_length": config["head_dim"],
        f"{architecture}.rope.dimension_count": config["head_dim"],
        "general.license": "mit",
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.ggml.eot_token_id": 260,
        "tokenizer.ggml.padding_token_id": 258,
    } | (extra or {})
    for key, value in values.items():
        if key not in leave_out:
            writer.add_string(key, value) if isinstance(value, str) else writer.add_uint32(key, value)
    writer.add_float32(f"{architecture}.rope.freq_base", config["rope_theta"])
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", config["rms_norm_eps"])
    add_tokenizer(writer, model)
    if rope_factors is not None:
        writer.add_tensor("rope_freqs.weight", np.array(rope_factors, dtype=np.float32))
    for name, tensor in load_source(model).items():
        data = tensor.float().numpy()
        if "q_proj" in name:
            data = permute(data, config["num_attention_heads"])
        if "k_proj" in name:
            data = permute(data, config["num_key_value_heads"])
        if data.ndim == 1 or kind is GGMLQuantizationType.F32:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(data))
        else:
            writer.add_tensor(gguf_name(name), quantize(np.ascontiguousarray(data), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: GGUFWriter, model: Path) -> None:
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokens = tokenizer["model"]["vocab"]
    specials = {token["content"] for token in tokenizer["added_tokens"]}
    names = sorted(tokens, key=lambda token: int(tokens[token]))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(names)
    writer.add_token_types([3 if token in specials else 1 for token in names])
    writer.add_token_merges([" ".join(merge) for merge in tokenizer["model"]["merges"]])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "model", values="arange")


def opened(path: Path) -> GgufSource:
    source = open_source(str(path))
    assert isinstance(source, GgufSource)
    return source


def test_every_tensor_and_the_config_come_back_exactly(model: Path, tmp_path: Path) -> None:
    path = write_gguf(model, tmp_path / "tiny.gguf")
    expected = load_source(model)
    with opened(path) as source, open_source(str(model)) as directory:
        assert source.spec.model_dump(exclude={"special_tokens"}) == directory.spec.model_dump(
            exclude={"special_tokens"}
        )
        tokens = source.spec.special_tokens
        assert (tokens.begin_id, tokens.end_ids, tokens.pad_id) == (257, (256, 260), 258)
        assert set(source.shapes) == set(expected)
        for name, tensor in expected.items():
            assert source.shapes[name] == tuple(tensor.shape)
            assert torch.equal(source.read(name), tensor), name
        assert (source.kind, source.license, source.notes) == ("gguf", "mit", ())
        assert source.input_files == (path,)


def test_it_converts_to_the_same_rank_files_as_the_directory(model: Path, tmp_path: Path) -> None:
    path = write_gguf(model, tmp_path / "tiny.gguf")
    one = convert_to(tmp_path / "a", model, tp_size=4)
    other = convert_to(tmp_path / "b", path, tp_size=4)
    assert one.files == other.files
    assert [record.path for record in other.input_files] == ["tiny.gguf"]


def test_a_bias_is_unpermuted_like_its_weight(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", values="arange", bias=True)
    expected = load_source(model)
    with opened(write_gguf(model, tmp_path / "tiny.gguf")) as source:
        assert source.spec.attention.bias
        for name in (name for name in expected if name.endswith(".bias")):
            assert torch.equal(source.read(name), expected[name]), name


def test_a_missing_output_means_tied_embeddings(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", tie=True)
    with opened(write_gguf(model, tmp_path / "tiny.gguf")) as source:
        assert source.spec.tie_word_embeddings
    convert_to(tmp_path / "out", tmp_path / "tiny.gguf", tp_size=2)
    heads = [rank["lm_head.weight"] for rank in load_ranks(tmp_path / "out")]
    assert torch.equal(torch.cat(heads), load_source(model)["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        (GGMLQuantizationType.F32, DType.FLOAT32),
        (GGMLQuantizationType.F16, DType.FLOAT16),
        (GGMLQuantizationType.BF16, DType.BFLOAT16),
        (GGMLQuantizationType.Q8_0, DType.BFLOAT16),
        (GGMLQuantizationType.Q4_1, DType.BFLOAT16),
    ],
)
def test_each_type_is_read_as_gguf_py_dequantizes_it(
    tmp_path: Path, kind: GGMLQuantizationType, dtype: DType
) -> None:
    model = write_tiny_llama(tmp_path / "model")
    expected = load_source(model)
    with opened(write_gguf(model, tmp_path / "tiny.gguf", kind=kind)) as source:
        assert source.spec.dtype is dtype
        for name in ("model.layers.1.mlp.down_proj.weight", "model.layers.0.self_attn.v_proj.weight"):
            wanted = dequantize(quantize(expected[name].numpy(), kind), kind)
            found = source.read(name)
            assert source.dtypes[name].value == str(found.dtype).removeprefix("torch.")
            assert torch.equal(found.float(), torch.from_numpy(wanted).float())
        quantized = kind.name.startswith("Q")
        assert source.notes == ((f"16 tensors of types {kind.name} dequantized",) if quantized else ())


def test_llama3_rope_factors_become_the_rope_scaling_they_were_made_of(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "model", head_size=64, config_extra={"rope_theta": 500000.0})
    for factor in (8.0, 32.0):
        factors = llama3_factors(base=500000.0, head_size=64, factor=factor, original_length=8192)
        path = write_gguf(model, tmp_path / f"{factor}.gguf", rope_factors=factors)
        with opened(path) as source:
            assert source.spec.rope.scaling == {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            }
            assert "rope_freqs.weight" not in source.shapes


def test_llama3_factors_are_those_of_transformers() -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    rope = {
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
    }  # fmt: skip
    config = LlamaConfig(head_dim=128, rope_parameters=rope)
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = 1 / 500000.0 ** (torch.arange(0, 128, 2) / 128)
    factors = llama3_factors(base=500000.0, head_size=128, factor=8.0, original_length=8192)
    assert torch.allclose(plain / frequencies, torch.tensor(factors), rtol=1e-4)


def test_rope_factors_of_another_kind_are_refused_not_lost(model: Path, tmp_path: Path) -> None:
    path = write_gguf(model, tmp_path / "tiny.gguf", rope_factors=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 7.5])
    with pytest.raises(InputRefused, match=r"rope_freqs\.weight holds factors that are not those of llama3"):
        opened(path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"architecture": "qwen2"}, "found architecture 'qwen2', which is not supported in a .gguf"),
        ({"extra": {"llama.expert_count": 8}}, "llama.expert_count: found a mixture of experts"),
        ({"extra": {"llama.rope.scaling.type": "yarn"}}, "found rope scaling 'yarn'"),
        ({"leave_out": ("llama.block_count",)}, "llama.block_count: missing"),
        ({"extra": {"llama.attention.head_count": 0}}, "head_count: found 0, expected a count"),
        ({"extra": {"llama.attention.key_length": "16"}}, "key_length: found '16', expected a count"),
        ({"extra": {"llama.attention.head_count": 65}}, "head_count: found 65 heads of 64 hidden values"),
        ({"extra": {"llama.expert_count": "none"}}, "llama.expert_count: found STRING, expected an integer"),
        ({"extra": {"llama.rope.scaling.factor": 2}}, "found UINT32, expected a number of floating point"),
        ({"extra": {"general.license": 7}}, "general.license: found UINT32, expected STRING"),
        ({"extra": {"tokenizer.ggml.eos_token_id": "</s>"}}, "eos_token_id: found STRING, expected an"),
        ({"extra": {"llama.rope.dimension_count": 8}}, "partial_rotary_factor: found 0.5, expected 1.0"),
    ],
)
def test_metadata_that_cannot_be_expressed_is_refused(
    model: Path, tmp_path: Path, arguments: dict[str, Any], words: str
) -> None:
    path = write_gguf(model, tmp_path / "tiny.gguf", **arguments)
    with pytest.raises(InputRefused) as caught:
        opened(path)
    assert words in str(caught.value)


@pytest.mark.parametrize("kept", [5, 200, 9000, -1000, -1])
def test_a_truncated_file_is_refused(model: Path, tmp_path: Path, kept: int) -> None:
    path = write_gguf(model, tmp_path / "tiny.gguf")
    content = path.read_bytes()[:kept]
    path.write_bytes(content)
    with pytest.raises(InputRefused, match=f"tiny.gguf: truncated.*found {len(content)} bytes"):
        opened(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "found first bytes b'', expected b'GGUF': not a .gguf file"),
        (b"PK\3\4 and more", "not a .gguf file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"GGUF" + b"\xff" * 100, "truncated or broken"),
    ],
)
def test_what_is_no_gguf_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(InputRefused) as caught:
        opened(path)
    assert words in str(caught.value)


def test_the_tokenizer_encodes_every_text_and_is_written_the_same_every_time(
    model: Path, tmp_path: Path
) -> None:
    from tokenizers import Tokenizer

    path = write_gguf(model, tmp_path / "tiny.gguf")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with opened(path) as source:
            source.write_tokenizer(tmp_path / name)
    files = {file.name: file.read_bytes() for file in (tmp_path / "a").iterdir()}
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "b").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(files)
    assert str(tmp_path).encode() not in b"".join(files.values())
    tokenizer = Tokenizer.from_file(str(tmp_path / "a" / "tokenizer.json"))
    text = "the capital of France: é 😀\n\ttabs"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert json.loads(files["tokenizer_config.json"])["eos_token"] == "</s>"


def test_unpermute_undoes_llama_cpps_permutation() -> None:
    original = np.arange(24.0).reshape(12, 2)
    permuted = torch.from_numpy(permute(original, 2))
    assert not np.array_equal(permuted.numpy(), original)
    assert np.array_equal(unpermute(permuted, num_heads=2).numpy(), original)


def test_a_float32_is_written_by_its_shortest_decimal() -> None:
    assert shortest_float32(9.999999747378752e-06) == 1e-05
    assert shortest_float32(100000.0) == 100000.0
    assert shortest_float32(0.3333333432674408) == 0.33333334
