"""The kind of every layer, by the rules that configs follow: a list, a step, a pattern of letters.

It knows no tensors. A kind may carry sizes of its own after a colon, as ``full:kv_heads=8``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tpforge.architectures.expressions import NotANumber

Config = Mapping[str, Any]
Rule = Callable[[Config, int], list[str]]
"""From the object of config.json with the sizes, and the number of layers, to a kind a layer."""

_PATTERN = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
_BLOCKS_OF_RATIO = {0: "window", 4: "by_4", 128: "by_128"}
_RATIO_OF_NAME = {
    "sliding_attention": 0,
    "compressed_sparse_attention": 4,
    "heavily_compressed_attention": 128,
}
_MIXERS = {"linear_attention": "mamba", "full_attention": "attention"}


def layer_kinds(rule: str, config: Config, *, num_layers: int, only: str) -> list[str]:
    """The kinds by the rule of that name; `only` is the kind of all layers where the rule is ``same``.

    Raises:
        NotANumber: config.json says something that the rule does not know; the message names the key.
    """
    kinds = [only] * num_layers if rule == "same" else RULES[rule](config, num_layers)
    if len(kinds) < num_layers:
        raise NotANumber(f"{rule} gives {len(kinds)} layers, num_hidden_layers is {num_layers}")
    return kinds[:num_layers]


def _listed(config: Config, key: str) -> list[Any] | None:
    found = config.get(key)
    return found if isinstance(found, list) else None


def _integer(config: Config, key: str, default: int) -> int:
    found = config.get(key)
    if found is None:
        return default
    if not isinstance(found, int):
        raise NotANumber(f"{key} is {found!r}, expected a whole number")
    return found


def _layer_types(config: Config, num_layers: int) -> list[str]:
    """`layer_types`; without it every second layer slides, the first among them (gpt-oss)."""
    given = _listed(config, "layer_types")
    if given is not None:
        return [str(one) for one in given]
    return ["full_attention" if index % 2 else "sliding_attention" for index in range(num_layers)]


def _sliding_of_four(config: Config, num_layers: int) -> list[str]:
    """`layer_types`; without it the last of every `sliding_window_pattern` layers sees everything."""
    given = _listed(config, "layer_types")
    if given is not None:
        return [str(one) for one in given]
    every = _integer(config, "sliding_window_pattern", _integer(config, "global_attn_every_n_layers", 4))
    return ["sliding_attention" if (index + 1) % every else "full_attention" for index in range(num_layers)]


def _heads_by_layer(config: Config, num_layers: int) -> list[str]:
    """Laguna: `layer_types`, all full without it, and the query heads of each by a list of their own."""
    types = _listed(config, "layer_types") or ["full_attention"] * num_layers
    heads = _listed(config, "num_attention_heads_per_layer")
    if heads is None:
        return [str(one) for one in types]
    if len(heads) != len(types) or not all(isinstance(one, int) for one in heads):
        raise NotANumber(f"num_attention_heads_per_layer has {len(heads)} entries of {len(types)} layers")
    return [f"{one}:heads={count}" for one, count in zip(types, heads, strict=True)]


def _sliding_of_six(config: Config, num_layers: int) -> list[str]:
    return _sliding_of_four({"sliding_window_pattern": 6, **config}, num_layers)


def _sliding_or_full(config: Config, num_layers: int) -> list[str]:
    """As the rule of four; without `sliding_window` every layer sees everything (EXAONE 4)."""
    if config.get("layer_types") is None and config.get("sliding_window") is None:
        return ["full_attention"] * num_layers
    pattern = config.get("sliding_window_pattern")
    if config.get("layer_types") is None and isinstance(pattern, str) and pattern:
        kinds = {"L": "sliding_attention", "G": "full_attention"}
        return [kinds.get(pattern[index % len(pattern)], pattern) for index in range(num_layers)]
    return _sliding_of_four(config, num_layers)


def _hybrid_types(config: Config, num_layers: int) -> list[str]:
    """`layer_types` or `layers_block_type`, which says mamba or attention, by the names of today."""
    names = {"mamba": "linear_attention", "attention": "full_attention"}
    given = _listed(config, "layer_types") or _listed(config, "layers_block_type") or ["mamba"] * num_layers
    return [names.get(str(one), str(one)) for one in given]


def _full_interval(config: Config, num_layers: int) -> list[str]:
    """`layer_types`; without it the last of every `full_attention_interval` layers has attention."""
    given = _listed(config, "layer_types")
    if given is not None:
        return [str(one) for one in given]
    every = _integer(config, "full_attention_interval", 4)
    return ["linear_attention" if (index + 1) % every else "full_attention" for index in range(num_layers)]


def _sparse_step(config: Config, num_layers: int) -> list[str]:
    """Experts in every `decoder_sparse_step`-th layer, but not in those of `mlp_only_layers`."""
    step = _integer(config, "decoder_sparse_step", 1)
    dense = set(_listed(config, "mlp_only_layers") or ())
    return ["dense" if index in dense or (index + 1) % step else "sparse" for index in range(num_layers)]


def _first_dense(config: Config, num_layers: int) -> list[str]:
    """`mlp_layer_types`, or `moe_layer_freq` as a list; else experts from `first_k_dense_replace` on."""
    given = _listed(config, "mlp_layer_types")
    if given is not None:
        return [str(one) for one in given]
    frequency = _listed(config, "moe_layer_freq")
    if frequency is not None:
        return ["sparse" if one else "dense" for one in frequency]
    first = _integer(config, "first_k_dense_replace", _integer(config, "num_dense_layers", 0))
    every = _integer(config, "moe_layer_freq", 1)
    return ["dense" if index < first or index % every else "sparse" for index in range(num_layers)]


def _moe_step(config: Config, num_layers: int) -> list[str]:
    """Llama 4: `moe_layers`, else the last of every `interleave_moe_layer_step` layers."""
    given = _listed(config, "moe_layers")
    step = _integer(config, "interleave_moe_layer_step", 1)
    sparse = set(given) if given is not None else set(range(step - 1, num_layers, step))
    return ["sparse" if index in sparse else "dense" for index in range(num_layers)]


def _no_rope_layers(config: Config, num_layers: int) -> list[str]:
    """Llama 4: layers without rope see everything, the others a chunk; the last of every four by default."""
    given = _listed(config, "no_rope_layers")
    every = _integer(config, "no_rope_layer_interval", 4)
    roped = given if given else [(index + 1) % every for index in range(num_layers)]
    return ["chunked_attention" if one else "full_attention" for one in roped]


def _indexer_types(config: Config, num_layers: int) -> list[str]:
    """`indexer_types`: layers without an indexer of their own take the choice of the one before."""
    given = _listed(config, "indexer_types")
    return ["full"] * num_layers if given is None else [str(one) for one in given]


def _compress_ratios(config: Config, num_layers: int) -> list[str]:
    """DeepSeek-V4: `compress_ratios`, 0, 4 or 128 for each layer; or transformers 5's `layer_types`."""
    given = _listed(config, "compress_ratios")
    named = _listed(config, "layer_types")
    if given is None and named is not None:
        rates = config.get("compress_rates") or {}
        given = [rates.get(one, _RATIO_OF_NAME.get(one, one)) for one in named]
    if given is None:
        raise NotANumber("compress_ratios is not a list, expected a ratio for each layer")
    unknown = sorted({one for one in given if one not in _BLOCKS_OF_RATIO}, key=str)
    if unknown:
        raise NotANumber(f"compress_ratios has {unknown[0]!r}, expected 0, 4 or 128")
    return [_BLOCKS_OF_RATIO[one] for one in given]


def _hash_layers(config: Config, num_layers: int) -> list[str]:
    """DeepSeek-V4: the first `num_hash_layers` route by a table of token ids; or by `mlp_layer_types`."""
    if (given := _listed(config, "mlp_layer_types")) is not None:
        return ["hashed" if one == "hash_moe" else "sparse" for one in given]
    hashed = _integer(config, "num_hash_layers", 3)
    return ["hashed" if index < hashed else "sparse" for index in range(num_layers)]


def _sparse_attention(config: Config, num_layers: int) -> list[str]:
    """MiniMax M3: `sparse_attention_config.sparse_attention_freq`, 1 for an index; or `layer_types`."""
    if (named := _listed(config, "layer_types")) is not None:
        return [{"minimax_m3_sparse": "sparse", "full_attention": "full"}.get(one, str(one)) for one in named]
    held = config.get("sparse_attention_config")
    given = held.get("sparse_attention_freq") if isinstance(held, Mapping) else None
    if not isinstance(given, list):
        raise NotANumber("sparse_attention_config.sparse_attention_freq is not a list")
    return ["sparse" if one else "full" for one in given]


def _block_types(config: Config, num_layers: int) -> list[str]:
    """Nemotron-H: `layers_block_type`, or the letters of `hybrid_override_pattern`."""
    given = _listed(config, "layers_block_type")
    if given is not None:
        # transformers 5 saves the names that all its hybrid models share.
        return [_MIXERS.get(one, str(one)) for one in given]
    pattern = config.get("hybrid_override_pattern")
    if not isinstance(pattern, str) or set(pattern) - set(_PATTERN):
        raise NotANumber(f"hybrid_override_pattern is {pattern!r}, expected the letters {' '.join(_PATTERN)}")
    return [_PATTERN[one] for one in pattern]


def _kimi_layers(config: Config, num_layers: int) -> list[str]:
    """`layer_types`, or `linear_attn_config.full_attn_layers`, which counts from 1."""
    given = _listed(config, "layer_types")
    if given is not None:
        return [str(one) for one in given]
    held = config.get("linear_attn_config")
    full = held.get("full_attn_layers") if isinstance(held, Mapping) else None
    if not isinstance(full, list):
        raise NotANumber("linear_attn_config.full_attn_layers is not a list")
    return ["full_attention" if index + 1 in full else "linear_attention" for index in range(num_layers)]


def _gemma4_layers(config: Config, num_layers: int) -> list[str]:
    """`layer_types`, the last of every six seeing everything; the last layers may share keys and values."""
    kinds = _sliding_of_six(config, num_layers)
    shared = _integer(config, "num_kv_shared_layers", 0)
    full = "full_attention_without_values" if config.get("attention_k_eq_v") else "full_attention"
    named = [full if one == "full_attention" else one for one in kinds]
    first = num_layers - shared
    return named[:first] + [f"shared_{one}" for one in kinds[first:]]


def _gemma4_mlp(config: Config, num_layers: int) -> list[str]:
    """Experts beside the dense block everywhere, or twice the width where keys and values are shared."""
    if config.get("enable_moe_block"):
        return ["sparse"] * num_layers
    wide = _integer(config, "num_kv_shared_layers", 0) if config.get("use_double_wide_mlp") else 0
    return ["dense"] * (num_layers - wide) + ["wide"] * wide


def _block_configs(config: Config, num_layers: int) -> list[str]:
    """Nemotron-NAS: `block_configs`, whose attention has n_heads_in_group, or is left out."""
    heads = _integer(config, "num_attention_heads", 0)
    kinds = []
    for attention in _blocks(config, "attention"):
        _refuse_linear(attention, "attention")
        group = attention.get("n_heads_in_group")
        kinds.append(f"full:kv_heads={heads // group}" if isinstance(group, int) and group else "none")
    return kinds


def _block_configs_mlp(config: Config, num_layers: int) -> list[str]:
    """Nemotron-NAS: widths are `ffn_mult` x 2/3 x hidden_size, rounded up to a multiple of 256."""
    hidden = _integer(config, "hidden_size", 0)
    kinds = []
    for mlp in _blocks(config, "ffn"):
        _refuse_linear(mlp, "ffn")
        factor = mlp.get("ffn_mult")
        if mlp.get("no_op") or not isinstance(factor, int | float):
            kinds.append("none")
            continue
        width = int(2 * factor * hidden / 3)
        kinds.append(f"dense:dense={-(-width // 256) * 256}")
    return kinds


def _blocks(config: Config, part: str) -> list[Mapping[str, Any]]:
    blocks = _listed(config, "block_configs")
    if blocks is None:
        raise NotANumber("block_configs is not a list, expected one object for each layer")
    return [
        one[part] if isinstance(one, Mapping) and isinstance(one.get(part), Mapping) else {} for one in blocks
    ]


def _refuse_linear(part: Mapping[str, Any], name: str) -> None:
    if part.get("replace_with_linear"):
        raise NotANumber(f"block_configs has {name}.replace_with_linear, which is in no table")


RULES: Mapping[str, Rule] = {
    "layer_types": _layer_types,
    "sliding_of_four": _sliding_of_four,
    "sliding_of_six": _sliding_of_six,
    "heads_by_layer": _heads_by_layer,
    "sliding_or_full": _sliding_or_full,
    "hybrid_types": _hybrid_types,
    "full_interval": _full_interval,
    "sparse_step": _sparse_step,
    "first_dense": _first_dense,
    "moe_step": _moe_step,
    "no_rope_layers": _no_rope_layers,
    "indexer_types": _indexer_types,
    "compress_ratios": _compress_ratios,
    "hash_layers": _hash_layers,
    "sparse_attention": _sparse_attention,
    "block_types": _block_types,
    "kimi_layers": _kimi_layers,
    "gemma4_layers": _gemma4_layers,
    "gemma4_mlp": _gemma4_mlp,
    "block_configs": _block_configs,
    "block_configs_mlp": _block_configs_mlp,
}
