"""What a migration amounts to: the recipe as TOML, and what to measure before and after.

It maps no setting; `migration` does.
"""

from __future__ import annotations

from typing import Any

import tomli_w

from builders.migration.settings import Migration
from tpforge.recipe import Recipe

UNKNOWN_MODEL = "MODEL"
"""Stands for the model in the recipe of an engine that does not say what it was made from."""


def recipe_text(migration: Migration, *, model: str, trtllm: str, sm: int | None, name: str | None) -> str:
    """The recipe as TOML."""
    sizes = migration.engine.mapping
    values: dict[str, Any] = {"model": model, "name": name}
    values |= {"tp": sizes["tp_size"], "pp": sizes["pp_size"], "moe_ep": sizes["moe_ep_size"]}
    values |= {"runtime": "pytorch", "trtllm": trtllm, "sm": sm, "limits": migration.limits}
    values["pytorch"] = {"llm_args": migration.arguments} if migration.arguments else None
    # Clients, smoke and bench speak the contract of compiled engines.
    values["repository"] = {"front": "inflight"}
    return tomli_w.dumps({key: value for key, value in values.items() if value})


def measurement_plan(recipe: Recipe) -> list[str]:
    """What to measure before and after, one variable at a time, with the way back."""
    name = recipe.name or "NEW"
    return [
        "serve the compiled engine as it is today, and keep it: it is the baseline and the way back",
        "tpforge smoke URL; tpforge bench URL: the same prompts, lengths and concurrency as in production",
        f'tpforge up RECIPE: builds and serves {name} on the same GPUs; front = "inflight" keeps the clients',
        "tpforge smoke URL; tpforge bench URL, with the same options as before",
        "tpforge compare RUN RUN: TTFT, tokens/s, p95, memory; a better average with a worse p95 is a risk",
        "compare answers too: long prompts, structured output and the cases that matter most",
        "then one change at a time: CUDA graphs, chunked prefill, the share of memory for the KV cache",
    ]
