"""What the runtime needs to know of an engine, read from checkpoint/config.json and engine.json.

It reads no weights. The checkpoint's config states the padded head counts, which are what is executed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
_ACTIVATIONS = ("silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu")


class EngineError(RuntimeError):
    """The engine folder cannot be executed: what was found, what was expected."""


@dataclass(frozen=True)
class Limits:
    """Requests in flight, prompt tokens, and prompt + output tokens of one request."""

    max_batch_size: int
    max_input_len: int
    max_seq_len: int


@dataclass(frozen=True)
class EngineConfig:
    """The sizes of the whole (padded) model, its mapping and the limits of the engine."""

    folder: Path
    architecture: str
    dtype: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    intermediate_size: int
    activation: str
    norm_epsilon: float
    rotary_base: float
    rotary_dim: int
    rotary_scaling: dict[str, Any] | None
    max_position_embeddings: int
    sliding_window: int | None
    parallel_embedding_dim: int | None
    tp_size: int
    pp_size: int
    limits: Limits
    end_ids: tuple[int, ...]
    pad_id: int | None

    @property
    def world_size(self) -> int:
        """Number of ranks, and of rank files."""
        return self.tp_size * self.pp_size

    def rank_file(self, rank: int) -> Path:
        """The one file that a rank reads."""
        return self.folder / "checkpoint" / f"rank{rank}.safetensors"

    def layers(self, rank: int) -> range:
        """Global layer indices of the rank's stage; the first stages take the remainder."""
        base, extra = divmod(self.num_layers, self.pp_size)
        stage = rank // self.tp_size
        start = stage * base + min(stage, extra)
        return range(start, start + base + (1 if stage < extra else 0))


def load_config(folder: Path | str) -> EngineConfig:
    """Read an engine folder.

    Raises:
        EngineError: a file is missing or broken, or the runtime cannot execute what it describes.
    """
    folder = Path(folder)
    checkpoint = _read_json(folder / "checkpoint" / "config.json")
    manifest = _read_json(folder / "engine.json")
    try:
        config = _build(folder, checkpoint, manifest)
    except KeyError as error:
        raise EngineError(f"{folder}: the key {error} is missing; build the engine again") from error
    problems = _problems(config, checkpoint)
    if problems:
        raise EngineError(f"{folder}: the reference runtime cannot execute it: {'; '.join(problems)}")
    return config


def rope_type(scaling: dict[str, Any] | None) -> str:
    """The kind of a Hugging Face rope scaling dictionary, under its new or its old key."""
    return "default" if scaling is None else str(scaling.get("rope_type", scaling.get("type", "default")))


def _build(folder: Path, checkpoint: dict[str, Any], manifest: dict[str, Any]) -> EngineConfig:
    limits = manifest["limits"]
    tokens = manifest["model"]["special_tokens"]
    parallel = checkpoint["use_parallel_embedding"]
    return EngineConfig(
        folder=folder,
        architecture=checkpoint["architecture"],
        dtype=checkpoint["dtype"],
        vocab_size=checkpoint["vocab_size"],
        hidden_size=checkpoint["hidden_size"],
        num_layers=checkpoint["num_hidden_layers"],
        num_heads=checkpoint["num_attention_heads"],
        num_kv_heads=checkpoint["num_key_value_heads"],
        head_size=checkpoint["head_size"],
        intermediate_size=checkpoint["intermediate_size"],
        activation=checkpoint["hidden_act"],
        norm_epsilon=checkpoint["norm_epsilon"],
        rotary_base=checkpoint["rotary_base"],
        rotary_dim=checkpoint["rotary_embedding_dim"],
        rotary_scaling=checkpoint["rotary_scaling"],
        max_position_embeddings=checkpoint["max_position_embeddings"],
        sliding_window=manifest["model"]["attention"]["sliding_window"],
        parallel_embedding_dim=checkpoint["embedding_sharding_dim"] if parallel else None,
        tp_size=checkpoint["mapping"]["tp_size"],
        pp_size=checkpoint["mapping"]["pp_size"],
        limits=Limits(
            max_batch_size=limits["max_batch_size"],
            max_input_len=limits["max_input_len"],
            max_seq_len=limits["max_seq_len"],
        ),
        end_ids=tuple(tokens["end_ids"]),
        pad_id=tokens["pad_id"],
    )


def _problems(config: EngineConfig, checkpoint: dict[str, Any]) -> list[str]:
    problems = []
    if config.architecture not in _ARCHITECTURES:
        problems.append(f"architecture {config.architecture}, known are {', '.join(_ARCHITECTURES)}")
    if config.activation not in _ACTIVATIONS:
        problems.append(f"hidden_act {config.activation}, known are {', '.join(_ACTIVATIONS)}")
    if rope_type(config.rotary_scaling) not in ROPE_TYPES:
        found = rope_type(config.rotary_scaling)
        problems.append(f"rope scaling {found!r}, known are {', '.join(ROPE_TYPES)}")
    quantization = checkpoint.get("quantization") or {}
    for key in ("quant_algo", "kv_cache_quant_algo"):
        if quantization.get(key):
            problems.append(f"{key} {quantization[key]}, only unquantized weights are executed")
    missing = [
        config.rank_file(rank).name
        for rank in range(config.world_size)
        if not config.rank_file(rank).is_file()
    ]
    if missing:
        problems.append(f"rank files are missing: {', '.join(missing)}")
    return problems


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EngineError(f"{path}: missing; this is not a complete engine folder") from None
    except ValueError as error:
        raise EngineError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise EngineError(f"{path}: found a {type(content).__name__}, expected a JSON object")
    return content
