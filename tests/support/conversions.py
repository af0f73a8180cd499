"""Converts tiny checkpoints for tests, and what the rank files must then hold, computed independently.

`expected_rank` works on whole tensors with torch.chunk, cat and index lists, as upstream's conversion does;
it shares no code with tpforge.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from builders.conversion.convert import Conversion, convert
from builders.conversion.planned import plan_conversion
from builders.sources import open_source
from tpforge.dtypes import DType
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping

Tensors = dict[str, torch.Tensor]


def convert_to(
    out: Path,
    location: Path,
    *,
    tp_size: int = 1,
    pp_size: int = 1,
    moe_ep_size: int = 1,
    dtype: DType | None = None,
    pad: bool = True,
    parallel_embedding_dim: int | None = None,
    quantization: Quantization | None = None,
) -> Conversion:
    """Convert into the new folder `out`."""
    out.mkdir(parents=True)
    with open_source(str(location)) as source:
        return convert(
            source,
            plan_conversion(
                source,
                mapping=Mapping(tp_size=tp_size, pp_size=pp_size, moe_ep_size=moe_ep_size),
                dtype=dtype,
                pad=pad,
                parallel_embedding_dim=parallel_embedding_dim,
                quantization=quantization,
            ),
            out=out,
        )


def load_ranks(folder: Path) -> list[Tensors]:
    """Every rank file, by safetensors' own loader."""
    paths = sorted(folder.glob("rank*.safetensors"), key=lambda path: int(path.stem[4:]))
    return [load_file(path) for path in paths]


def load_source(folder: Path) -> Tensors:
    """Every tensor of a Hugging Face directory, by safetensors' own loader."""
    tensors: Tensors = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def padded_rows(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    """`tensor` with zero rows at its end."""
    return torch.cat([tensor, tensor.new_zeros(rows - tensor.shape[0], *tensor.shape[1:])])


def expected_rank(
    source: Tensors,
    config: dict[str, Any],
    *,
    tp_rank: int,
    tp_size: int,
    layers: range,
    query_heads: list[int | None],
    kv_heads: list[int | None],
    first: bool = True,
    last: bool = True,
    parallel_embedding_dim: int | None = None,
) -> Tensors:
    """The tensors of one rank; `query_heads` and `kv_heads` are the source heads it holds, None for zeros."""
    head_size = config["head_dim"]

    def heads(tensor: torch.Tensor, wanted: list[int | None]) -> torch.Tensor:
        pieces = torch.split(tensor, head_size)
        zero = torch.zeros_like(pieces[0])
        return torch.cat([zero if head is None else pieces[head] for head in wanted])

    def mine(tensor: torch.Tensor) -> torch.Tensor:
        rows = -(-tensor.shape[0] // tp_size)
        return padded_rows(tensor, rows * tp_size).chunk(tp_size)[tp_rank]

    result: Tensors = {}
    embedding = source["model.embed_tokens.weight"]
    if first and parallel_embedding_dim is None:
        result["transformer.vocab_embedding.weight"] = embedding
    elif first:
        cut = mine(embedding) if parallel_embedding_dim == 0 else mine(embedding.T).T
        result["transformer.vocab_embedding.weight"] = cut
    for local, layer in enumerate(layers):
        hf, target = f"model.layers.{layer}.", f"transformer.layers.{local}."
        attention = hf + "self_attn."
        result[target + "input_layernorm.weight"] = source[hf + "input_layernorm.weight"]
        result[target + "post_layernorm.weight"] = source[hf + "post_attention_layernorm.weight"]
        for suffix in ("weight", "bias") if config["attention_bias"] else ("weight",):
            result[target + f"attention.qkv.{suffix}"] = torch.cat(
                [
                    heads(source[attention + f"q_proj.{suffix}"], query_heads),
                    heads(source[attention + f"k_proj.{suffix}"], kv_heads),
                    heads(source[attention + f"v_proj.{suffix}"], kv_heads),
                ]
            )
        if config["attention_bias"]:
            result[target + "attention.dense.bias"] = source[attention + "o_proj.bias"]
        result[target + "attention.dense.weight"] = heads(
            source[attention + "o_proj.weight"].T, query_heads
        ).T
        result[target + "mlp.fc.weight"] = mine(source[hf + "mlp.gate_proj.weight"])
        result[target + "mlp.gate.weight"] = mine(source[hf + "mlp.up_proj.weight"])
        result[target + "mlp.proj.weight"] = mine(source[hf + "mlp.down_proj.weight"].T).T
    if last:
        result["transformer.ln_f.weight"] = source["model.norm.weight"]
        result["lm_head.weight"] = mine(
            embedding if config["tie_word_embeddings"] else source["lm_head.weight"]
        )
    return result


def assert_equal(found: Tensors, expected: Tensors) -> None:
    """The same set of names, and equal types and values."""
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
