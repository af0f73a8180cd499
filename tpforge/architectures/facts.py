"""Says in words what a declared model is: its layers by kind, what they keep, how it divides.

It finds nothing out; `declared` does.
"""

from __future__ import annotations

from tpforge.architectures.declared import Cache, Declared
from tpforge.architectures.division import ep_sizes, tp_sizes


def declared_facts(model: Declared) -> list[tuple[str, str]]:
    """The model, a fact a row."""
    sizes = model.sizes
    rows = [
        ("layers", f"{model.num_layers}: {_kinds(model)}"),
        ("hidden size", str(sizes["hidden"])),
        ("attention heads", f"{sizes['heads']}, {sizes['kv_heads']} KV"),
        ("experts", _experts(model)),
        ("active parameters", f"{model.num_active_parameters:,} a token"),
        (
            "vision tower",
            f"{sum(one.num_elements for one in model.tower):,} parameters" if model.tower else "none",
        ),
        (
            "prediction layers",
            f"{model.num_mtp_layers}, not counted above" if model.num_mtp_layers else "none",
        ),
        ("cache of a token", _of(model, is_per_request=False)),
        ("state of a request", _of(model, is_per_request=True)),
        ("context", _context(sizes["positions"])),
        ("vocabulary", str(sizes["vocab"])),
        ("tied embeddings", "yes" if sizes["tied"] else "no"),
        ("tp sizes that divide", ", ".join(map(str, tp_sizes(model)))),
    ]
    if groups := ep_sizes(model):
        rows.append(("moe-ep sizes that divide", ", ".join(map(str, groups))))
    return rows


def _kinds(model: Declared) -> str:
    words = []
    for (attention, mlp), count in model.layer_counts.items():
        names = [one.partition(":")[0].replace("_", " ") for one in (attention, mlp) if one != "none"]
        words.append(f"{count} {' + '.join(names)}")
    return ", ".join(words)


def _experts(model: Declared) -> str:
    if not any(layer.has_experts for layer in model.layers):
        return "none"
    return f"{model.sizes['experts']}, {model.sizes['top_k']} a token"


def _context(positions: int) -> str:
    return "not declared" if positions >= 1 << 31 else str(positions)


def _of(model: Declared, *, is_per_request: bool) -> str:
    """Values of the cache's type and bytes of their own, over all layers, of all ranks together."""
    held = (one for layer in model.layers for one in layer.caches)
    caches = [one for one in held if one.is_per_request is is_per_request]
    values, num_bytes = sum(map(_values, caches)), sum(one.num_bytes // one.every for one in caches)
    words = [f"{values:,} values"] if values else []
    words += [f"{num_bytes:,} bytes"] if num_bytes else []
    return " and ".join(words) or "none"


def _values(cache: Cache) -> int:
    return cache.values // cache.every
