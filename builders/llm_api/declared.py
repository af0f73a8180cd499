"""The sizes of a model that no family of ours reads, as its config.json declares them; for the LLM API alone.

No tensor is compared with them, and nothing is converted by them: they decide limits, ranks and memory.
A model that understands images too declares its language model in `text_config`.
"""

from __future__ import annotations

from builders.families.common.reading import ConfigReader
from builders.sources.directory import Directory, most_common_dtype
from builders.sources.json_files import read_json_object
from tpforge.errors import InputRefused
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, NormSpec

_TEXT = "text_config"
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")

_UNKNOWN = 1 << 31
"""Positions, where config.json leaves them to the default of transformers' class: no length is above them."""


def declared_model(found: Directory, *, architecture: str) -> ModelSpec:
    """The model of a directory by its config.json alone.

    Raises:
        InputRefused: a size is missing or impossible, or it has experts, whose sizes have many names.
    """
    inner = found.config.get(_TEXT)
    text = inner if isinstance(inner, dict) else {}
    file = found.path / "generation_config.json"
    config = ConfigReader(
        {**{key: value for key, value in found.config.items() if key != _TEXT}, **text},
        where=str(found.path / "config.json"),
        weight_dtype=most_common_dtype(found.dtypes),
        generation=read_json_object(file) if file.is_file() else None,
    )
    if experts := [key for key in _EXPERTS if config.has(key)]:
        raise InputRefused(
            f"{config.where}: {architecture} has experts ({experts[0]}), whose sizes are read for the "
            "architectures of docs/models.md alone; state them in a file for --describe"
        )
    heads, hidden = config.integer("num_attention_heads"), config.integer("hidden_size")
    vocab_size = config.integer("vocab_size", default=_rows_of_embedding(found))
    return config.checked(
        ModelSpec(
            architecture=architecture,
            vocab_size=vocab_size,
            hidden_size=hidden,
            num_layers=config.integer("num_hidden_layers"),
            max_position_embeddings=config.integer("max_position_embeddings", default=_UNKNOWN),
            dtype=config.dtype(),
            tie_word_embeddings=config.flag("tie_word_embeddings", default=False),
            attention=AttentionSpec(
                num_heads=heads,
                num_kv_heads=config.integer("num_key_value_heads", default=heads),
                head_size=config.integer("head_dim", default=max(1, hidden // heads)),
            ),
            mlp=MlpSpec(
                intermediate_size=config.integer("intermediate_size"),
                activation=str(text.get("hidden_activation") or found.config.get("hidden_act") or "unknown"),
            ),
            rope=None,
            norm=NormSpec(epsilon=config.number("rms_norm_eps", default=1e-6)),
            special_tokens=config.special_tokens(vocab_size=vocab_size),
        )
    )


def _rows_of_embedding(found: Directory) -> int | None:
    """The vocabulary by the embedding's shape, where config.json leaves it to transformers' default."""
    names = [name for name in found.shapes if name.endswith("embed_tokens.weight")]
    return found.shapes[names[0]][0] if len(names) == 1 else None
