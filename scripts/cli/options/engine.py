"""The record that `build` takes, from the values of a command's options. It builds nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scripts.cli.options.tensorrt_llm import option_of, refuse_other_runtimes
from tpforge.errors import UsageError

if TYPE_CHECKING:
    from tpforge.recipe import EngineRecipe


def _nested_runtimes(values: dict[str, Any]) -> dict[str, Any]:
    """The values of `tensorrt_llm_options` in a recipe's tables; what was not given keeps its default."""
    from tpforge.recipe import PytorchRecipe, TensorrtRecipe
    from tpforge.trtllm.arguments import parse_pairs

    others = {key: value for key, value in values.items() if key not in ("trtllm", "sm") or value is not None}
    for option in ("build_args", "llm_args", "llm_args_unchecked"):
        if option in others:
            others[option] = parse_pairs(others[option], option=option_of(option))
    for table, fields in (("tensorrt", TensorrtRecipe), ("pytorch", PytorchRecipe)):
        own = {key: others.pop(key) for key in fields.model_fields if key in others}
        if own:
            others[table] = own
    return others


def engine_recipe(model: str, values: dict[str, Any]) -> EngineRecipe:
    """The record for the values of `sharding_options`, those of `limit_options` and `--name`, where given.

    Raises:
        UsageError: a value that click let pass is wrong, such as a name that cannot be a folder's, or is
            for another runtime.
    """
    from pydantic import ValidationError

    from tpforge.recipe import EngineRecipe, LimitsRecipe

    refuse_other_runtimes(values)
    limits = {key: value for key, value in values.items() if key in LimitsRecipe.model_fields}
    others = {key: value for key, value in values.items() if key not in limits}
    others = _nested_runtimes(others)
    try:
        return EngineRecipe.model_validate({"model": model, "limits": limits, **others})
    except ValidationError as error:
        problems = [f"--{problem['loc'][-1]}: {problem['msg']}" for problem in error.errors()]
        raise UsageError("; ".join(problems)) from error
