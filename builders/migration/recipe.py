"""What a migration amounts to: the recipe as TOML, and what to measure before and after.

It maps no setting; `settings` and `releases` do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tomli_w

from tpforge.recipe import Recipe
from tpforge.repository_options import PytorchOptions
from tpforge.trtllm.versions import Release

UNKNOWN_MODEL = "MODEL"
"""Stands for the model in the recipe of an engine that does not say what it was made from."""


@dataclass(frozen=True)
class Result:
    """What a migration adds up to: `sizes` are tp, pp and moe_ep."""

    sizes: dict[str, int]
    limits: dict[str, int]
    arguments: dict[str, Any]
    keeps_clients: bool


def recipe_text(found: Result, *, model: str, release: Release, sm: int | None, name: str | None) -> str:
    """The recipe as TOML."""
    values: dict[str, Any] = {"model": model, "name": name, **found.sizes}
    values |= {"runtime": "pytorch", "trtllm": release.trtllm, "sm": sm, "limits": found.limits}
    # TOML has no null; the arguments of the LLM API read the word.
    arguments = {key: "null" if value is None else value for key, value in found.arguments.items()}
    values["pytorch"] = {"llm_args": arguments} if arguments else None
    # Clients, smoke and bench speak the contract of compiled engines, where Triton has the release.
    values["repository"] = {"front": "inflight"} if found.keeps_clients else None
    return tomli_w.dumps({key: value for key, value in values.items() if value})


def measurement_plan(recipe: Recipe, *, before: str) -> list[str]:
    """What to measure before and after, one variable at a time; `before` is what runs today."""
    name = recipe.name or "NEW"
    keeps = isinstance(recipe.repository, PytorchOptions) and recipe.repository.front == "inflight"
    front = '; front = "inflight" keeps the clients' if keeps else ""
    return [
        f"serve {before} as it is today, and keep it: it is the baseline and the way back",
        "tpforge smoke URL; tpforge bench URL: the same prompts, lengths and concurrency as in production",
        f"tpforge up RECIPE: builds and serves {name} on the same GPUs{front}",
        "tpforge smoke URL; tpforge bench URL, with the same options as before",
        "tpforge compare RUN RUN: TTFT, tokens/s, p95, memory; a better average with a worse p95 is a risk",
        "compare answers too: long prompts, structured output and the cases that matter most",
        "then one change at a time: CUDA graphs, chunked prefill, the share of memory for the KV cache",
    ]
