"""What the runtime needs to know of an engine, read from checkpoint/config.json and engine.json.

It reads no weights. The checkpoint's config states the padded head counts, which are what is executed;
what the format leaves to the model definition is in `architectures`, and sliding windows are in engine.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .architectures import Architecture, resolve
from .dequantize import Quantized, order_problems, read_quantized
from .errors import EngineError
from .fields import (
    ROPE_TYPES,
    ExpertsConfig,
    LatentConfig,
    LongRope,
    Multipliers,
    read_experts,
    read_latent,
    read_longrope,
    read_multipliers,
    rope_type,
)
from .refusing import refusals

__all__ = ["ROPE_TYPES", "EngineConfig", "EngineError", "Limits", "load_config", "refusals", "rope_type"]


@dataclass(frozen=True)
class Limits:
    """Requests in flight, prompt tokens, and prompt + output tokens of one request."""

    max_batch_size: int
    max_input_len: int
    max_seq_len: int


@dataclass(frozen=True)
class EngineConfig:
    """The sizes of the whole (padded) model, its mapping and the limits of the engine.

    `form` is the architecture's row. `windows` has each layer's sliding window, or None where it sees all;
    layers with a window take `rotary_local_base`, where there is one.
    `rounds_kv` False leaves the KV cache unrounded though it is declared quantized: for proofs of shards.
    """

    folder: Path
    architecture: str
    form: Architecture
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
    position: str
    rotary_base: float
    rotary_local_base: float | None
    rotary_dim: int
    rotary_scaling: dict[str, Any] | None
    longrope: LongRope | None
    max_position_embeddings: int
    windows: tuple[int | None, ...]
    qk_norm: bool
    clip_qkv: float | None
    alibi_bias_max: float
    multipliers: Multipliers
    experts: ExpertsConfig | None
    latent: LatentConfig | None
    quantized: Quantized | None
    kv_algorithm: str | None
    parallel_embedding_dim: int | None
    tp_size: int
    pp_size: int
    limits: Limits
    end_ids: tuple[int, ...]
    pad_id: int | None
    rounds_kv: bool = True

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
        problems = refusals(checkpoint, manifest["model"], max_seq_len=manifest["limits"]["max_seq_len"])
        problems += order_problems(manifest)
        if not problems:
            config = _build(folder, checkpoint, manifest)
            problems = _missing_files(config)
    except KeyError as error:
        raise EngineError(f"{folder}: the key {error} is missing; build the engine again") from error
    if problems:
        raise EngineError(f"{folder}: the reference runtime cannot execute it: {'; '.join(problems)}")
    return config


def _build(folder: Path, checkpoint: dict[str, Any], manifest: dict[str, Any]) -> EngineConfig:
    limits = manifest["limits"]
    tokens = manifest["model"]["special_tokens"]
    form = resolve(checkpoint["architecture"], checkpoint)
    assert form is not None, "an architecture that refusals() lets pass has a row"
    latent = read_latent(checkpoint) if form.latent else None
    position = checkpoint.get("position_embedding_type", "rope_gpt_neox")
    parallel = checkpoint["use_parallel_embedding"]
    return EngineConfig(
        folder=folder,
        architecture=checkpoint["architecture"],
        form=form,
        dtype=checkpoint["dtype"],
        vocab_size=checkpoint["vocab_size"],
        hidden_size=checkpoint["hidden_size"],
        num_layers=checkpoint["num_hidden_layers"],
        num_heads=checkpoint["num_attention_heads"],
        num_kv_heads=checkpoint["num_key_value_heads"],
        head_size=checkpoint["head_size"],
        intermediate_size=_dense_width(checkpoint),
        activation=checkpoint["hidden_act"],
        norm_epsilon=checkpoint["norm_epsilon"],
        position=position,
        rotary_base=checkpoint.get("rotary_base", 10000.0),
        rotary_local_base=checkpoint.get("rope_local_base_freq"),
        rotary_dim=latent.qk_rope_head_dim if latent else checkpoint["rotary_embedding_dim"],
        rotary_scaling=checkpoint.get("rotary_scaling"),
        longrope=read_longrope(checkpoint) if position == "long_rope" else None,
        max_position_embeddings=checkpoint["max_position_embeddings"],
        windows=_windows(checkpoint["num_hidden_layers"], manifest["model"]["attention"]),
        qk_norm=checkpoint.get("qk_layernorm", False) if form.qk_norm is None else form.qk_norm,
        clip_qkv=checkpoint.get("clip_qkv"),
        alibi_bias_max=checkpoint.get("alibi_bias_max", 8),
        multipliers=read_multipliers(checkpoint, latent=latent, sqrt_embedding=form.sqrt_embedding),
        experts=read_experts(checkpoint),
        latent=latent,
        quantized=read_quantized(checkpoint, manifest),
        kv_algorithm=(checkpoint.get("quantization") or {}).get("kv_cache_quant_algo"),
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


def _dense_width(checkpoint: dict[str, Any]) -> int:
    """The width of a dense block; Qwen 1 counts its two halves together."""
    width: int = checkpoint["intermediate_size"]
    return width // 2 if checkpoint.get("qwen_type") == "qwen" else width


def _windows(num_layers: int, attention: dict[str, Any]) -> tuple[int | None, ...]:
    window = attention["sliding_window"]
    sliding = attention.get("sliding_layers") or [True] * num_layers
    return tuple(window if here else None for here in sliding)


def _missing_files(config: EngineConfig) -> list[str]:
    files = (config.rank_file(rank) for rank in range(config.world_size))
    missing = [file.name for file in files if not file.is_file()]
    return [f"rank files are missing: {', '.join(missing)}"] if missing else []


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
