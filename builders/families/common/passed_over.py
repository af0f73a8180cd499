"""What a config.json says and its class passes over: keys that decide other models, and code of its own.

It refuses nothing, since transformers passes over the same; it says so, for people who meant what they wrote.
"""

from __future__ import annotations

from typing import Any

from builders.families.common.base import Family
from builders.families.common.keys import INERT, SHARED_READS
from builders.families.common.registry import FAMILIES
from builders.families.config_classes import is_remote
from builders.sources.json_files import shown

_OF_OTHERS = (
    "attention_chunk_size",
    "attention_sink_size",
    "clip_qkv",
    "no_rope_layer_interval",
    "no_rope_layers",
    "num_kv_shared_layers",
    "rope_interleave",
    "use_qk_norm",
)
"""Keys that decide models of no family here."""
_LENGTHS = (
    "max_seq_len",
    "model_max_length",
    "n_positions",
    "original_max_position_embeddings",
    "seq_length",
)
"""Told in many configs beside max_position_embeddings; where a rope is scaled, it is read with it."""
_NOTHING: tuple[Any, ...] = (None, False, {}, [], "")


def passed_over(family: Family, values: dict[str, Any]) -> list[str]:
    """Notes, one for all such keys and one for code."""
    keys, notes = family.keys, []
    deciding = {key for one in FAMILIES for key in one.keys.reads} | {*_OF_OTHERS}
    own = {*keys.reads, *keys.inert, *SHARED_READS, *INERT, *_LENGTHS, *keys.of.defaults, *keys.of.aliases}
    others = [key for key in sorted(deciding - own) if values.get(key) not in _NOTHING]
    if others:
        found = ", ".join(f"{key} {shown(values[key])}" for key in others)
        notes.append(f"passed over, since {keys.of.name} has no such key, as transformers does: {found}")
    code = values.get("auto_map")
    named = code.get("AutoModelForCausalLM") if isinstance(code, dict) else None
    if named is not None and not is_remote(keys.model_type):
        notes.append(
            f"its own code ({shown(named)}, auto_map) is not run: {family.name} is computed as "
            "transformers has it"
        )
    return notes
