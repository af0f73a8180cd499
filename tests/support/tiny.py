"""Tiny, seeded Hugging Face checkpoints, made without a network, for every test that needs a model.

It does not convert anything; the real demo model is `builders.demo`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

BEGIN, END, PAD, ROLE_START, ROLE_END = "<s>", "</s>", "<pad>", "<|start|>", "<|end|>"
SPECIALS = (END, BEGIN, PAD, ROLE_START, ROLE_END)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
WORDS = (" the", " of", " and", " is", " a", "ing", " capital", " France", " Paris", "er", "on", "re", " to")


def write_tiny_llama(
    folder: Path,
    *,
    num_layers: int = 2,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_size: int = 16,
    hidden_size: int = 64,
    intermediate_size: int = 128,
    vocab_size: int = 320,
    tie: bool = False,
    seed: int = 0,
    values: Literal["random", "arange"] = "random",
    rope_scaling: dict[str, Any] | None = None,
    num_files: int = 1,
    dtype: str = "float32",
    bias: bool = False,
    architecture: str = "LlamaForCausalLM",
    config_extra: dict[str, Any] | None = None,
) -> Path:
    """Write config.json, weights, generation_config.json and a real tokenizer; give `folder` back.

    `arange` numbers every element of every tensor (float32: its value; two-byte types: its bits), so that
    a misplaced slice cannot pass. `random` is seeded and scaled so that greedy answers are decisive.
    A vocabulary below 257 gets no tokenizer, since it could not hold every byte.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = {
        "architectures": [architecture],
        "model_type": "mistral" if architecture.startswith("Mistral") else "llama",
        "attention_bias": bias,
        "bos_token_id": 257,
        "eos_token_id": 256,
        "head_dim": head_size,
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "max_position_embeddings": 512,
        "mlp_bias": False,
        "num_attention_heads": num_heads,
        "num_hidden_layers": num_layers,
        "num_key_value_heads": num_kv_heads,
        "rms_norm_eps": 1e-5,
        "rope_scaling": rope_scaling,
        "rope_theta": 10000.0,
        "tie_word_embeddings": tie,
        "torch_dtype": dtype,
        "vocab_size": vocab_size,
    }
    if vocab_size < 258:
        config |= {"bos_token_id": None, "eos_token_id": vocab_size - 1}
    config |= config_extra or {}
    _write_json(folder / "config.json", config)
    _write_json(
        folder / "generation_config.json", {"eos_token_id": config["eos_token_id"], "do_sample": False}
    )
    tensors = _fill(tiny_shapes(config), seed=seed, values=values, dtype=getattr(torch, dtype))
    _write_weights(folder, tensors, num_files=num_files)
    if vocab_size > 256:
        write_tiny_tokenizer(folder, vocab_size=vocab_size)
    return folder


def tiny_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a llama checkpoint with its shape, from a Hugging Face config."""
    hidden, width = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "input_layernorm.weight"] = (hidden,)
        for name, rows in (("q", queries), ("k", keys), ("v", keys)):
            shapes[prefix + f"self_attn.{name}_proj.weight"] = (rows, hidden)
            if config.get("attention_bias"):
                shapes[prefix + f"self_attn.{name}_proj.bias"] = (rows,)
        shapes[prefix + "self_attn.o_proj.weight"] = (hidden, queries)
        if config.get("attention_bias"):
            shapes[prefix + "self_attn.o_proj.bias"] = (hidden,)
        shapes[prefix + "post_attention_layernorm.weight"] = (hidden,)
        shapes[prefix + "mlp.gate_proj.weight"] = (width, hidden)
        shapes[prefix + "mlp.up_proj.weight"] = (width, hidden)
        shapes[prefix + "mlp.down_proj.weight"] = (hidden, width)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return shapes


def write_tiny_tokenizer(folder: Path, *, vocab_size: int) -> None:
    """A byte-level BPE tokenizer that can encode every text, with specials and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: index for index, character in enumerate(alphabet)}
    specials = SPECIALS[: vocab_size - len(alphabet)]
    vocab |= {token: len(alphabet) + index for index, token in enumerate(specials)}
    merges: list[tuple[str, str]] = []
    for left, right in _merges():
        if len(vocab) < vocab_size and left + right not in vocab:
            vocab[left + right] = len(vocab)
            merges.append((left, right))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "eos_token": END,
    }
    if BEGIN in specials:
        config["bos_token"] = BEGIN
    if PAD in specials:
        config["pad_token"] = PAD
    _write_json(folder / "tokenizer_config.json", config)


def _merges() -> Iterator[tuple[str, str]]:
    """The merges that build each word from left to right, in byte-level characters."""
    for word in WORDS:
        text = word.replace(" ", "Ġ")
        for end in range(1, len(text)):
            yield text[:end], text[end]


def _fill(
    shapes: dict[str, tuple[int, ...]], *, seed: int, values: str, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    first = 0
    for name, shape in shapes.items():
        count = math.prod(shape)
        if values == "arange":
            tensors[name] = _numbered(first, count, dtype).reshape(shape)
            first += count
        elif "norm" in name:
            tensors[name] = (1 + 0.1 * torch.randn(shape, generator=generator)).to(dtype)
        else:
            untied_embedding = "embed" in name and "lm_head.weight" in shapes
            scale = 1.0 if untied_embedding else 1 / math.sqrt(shape[-1])
            tensors[name] = (scale * torch.randn(shape, generator=generator)).to(dtype)
    return tensors


def _numbered(first: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Consecutive numbers; for two-byte types consecutive bit patterns of finite values."""
    numbers = torch.arange(first + 1, first + count + 1, dtype=torch.int64)
    if dtype is torch.float32:
        assert first + count < 1 << 24, "float32 cannot number so many elements exactly"
        return numbers.to(torch.float32)
    return (numbers % 0x7C00).to(torch.int16).view(dtype)


def _write_weights(folder: Path, tensors: dict[str, torch.Tensor], *, num_files: int) -> None:
    if num_files == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    names = list(tensors)
    for number in range(num_files):
        file_name = f"model-{number + 1:05d}-of-{num_files:05d}.safetensors"
        held = names[number::num_files]
        save_file({name: tensors[name] for name in held}, folder / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(held, file_name)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    _write_json(folder / "model.safetensors.index.json", index)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
