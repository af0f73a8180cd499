"""The command line of an engine, with every default spelled out, so that it can be made again.

What only one runtime has, that runtime adds.
"""

from __future__ import annotations

from tpforge.dtypes import DType
from tpforge.manifest import Limits
from tpforge.recipe import EngineRecipe


def command_words(recipe: EngineRecipe, *, limits: Limits, dtype: DType) -> tuple[str, ...]:
    """The words that every runtime has."""
    words = ["tpforge", "build", recipe.model, "--tp", recipe.tp, "--pp", recipe.pp, "--dtype", dtype.value]
    words += ["--moe-ep", recipe.moe_ep] if recipe.moe_ep > 1 else []
    words.append("--pad" if recipe.pad else "--no-pad")
    if recipe.parallel_embedding is not None:
        words += ["--parallel-embedding", recipe.parallel_embedding]
    words += ["--quantize", recipe.quantize] if recipe.quantize else []
    words += ["--kv-cache", recipe.kv_cache] if recipe.kv_cache else []
    words += ["--portable"] if recipe.portable else []
    words += ["--max-drop", recipe.max_drop] if recipe.max_drop is not None else []
    for name, value in limits.model_dump().items():
        words += [f"--{name.replace('_', '-')}", value]
    return tuple(str(word) for word in [*words, "--runtime", recipe.runtime])
