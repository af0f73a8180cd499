"""Writes a llama that lies in a .gguf file as a Hugging Face directory, for tools that read nothing else.

A directory needs no export. The weights are cast to the model's type; the tokenizer comes along.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from builders.sources.base import Source
from builders.torch_types import cast
from tpforge.errors import InputRefused
from tpforge.model import ModelSpec


def write_huggingface(source: Source, out: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer into the folder `out`.

    Raises:
        InputRefused: it is no llama.
    """
    from safetensors.torch import save_file

    spec = source.spec
    if spec.architecture != "LlamaForCausalLM" or spec.rope is None:
        raise InputRefused(f"{source.location}: only a llama is written as a Hugging Face directory")
    names = source.family.expected_shapes(spec)
    tensors = {name: cast(source.read(name), spec.dtype, name=name).contiguous() for name in names}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    text = json.dumps(_config(spec), indent=2) + "\n"
    (out / "config.json").write_text(text, encoding="utf-8")
    source.write_tokenizer(out)


def _config(spec: ModelSpec) -> dict[str, Any]:
    assert spec.rope is not None
    return {
        "architectures": [spec.architecture],
        "model_type": "llama",
        "torch_dtype": str(spec.dtype),
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.mlp.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.attention.num_heads,
        "num_key_value_heads": spec.attention.num_kv_heads,
        "head_dim": spec.attention.head_size,
        "hidden_act": spec.mlp.activation,
        "rms_norm_eps": spec.norm.epsilon,
        "rope_theta": spec.rope.base,
        "rope_scaling": spec.rope.scaling,
        "max_position_embeddings": spec.max_position_embeddings,
        "tie_word_embeddings": spec.tie_word_embeddings,
        "attention_bias": spec.attention.bias,
        "mlp_bias": spec.mlp.bias,
        "bos_token_id": spec.special_tokens.begin_id,
        "eos_token_id": spec.special_tokens.end_ids[0] if spec.special_tokens.end_ids else None,
        "pad_token_id": spec.special_tokens.pad_id,
    }
