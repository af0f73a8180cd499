"""The recipe of a plan's chosen option: what `tpforge up` runs, and what must be made before.

It plans nothing and quantizes nothing: a format that needs calibration is named as the command that makes it.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

from builders.asked_quantization import PORTABLE
from tpforge.errors import InputRefused
from tpforge.plan.choice.choose import Plan
from tpforge.plan.memory.rank import KV_FRACTION
from tpforge.plan.models.known import find_known
from tpforge.quantization import find_format
from tpforge.trtllm.architectures import architecture_problems, architecture_support
from tpforge.trtllm.versions import DEFAULT_RELEASE
from tpforge.units import counted


def recipe_text(plan: Plan, *, model: str, path: Path, describe: Path | None = None) -> str:
    """recipe.toml, to be written to `path`, of the chosen option: one replica, for `tpforge up`.

    `describe` is the user's file of sizes that the plan was made by.

    Raises:
        InputRefused: nothing makes the option's cache or weights for its runtime.
    """
    import tomli_w

    option = plan.chosen
    named = _named(model, folder=path.parent)
    head = [
        f"# {option.label}, chosen by tpforge plan for {plan.cluster.num_gpus} x {plan.cluster.gpu.title}:",
        f"# about {option.tokens_per_second:.0f} tokens/s"
        + (f" of {option.replicas} replicas; this is one of them." if option.replicas > 1 else "."),
    ]
    if drafted := plan.ask.load.drafts.num_tokens:
        head += [
            f"# That is with {counted(drafted, 'token')} drafted for a step: this recipe drafts none; see "
            "speculative_config of the LLM API."
        ]
    source, weights = named, _weights(plan)
    if weights is None:
        assert option.weight_format is not None
        source = _calibrated(named, option.weight_format)
        head += [
            "# First, in the folder of this file, calibrate (the model is quantized there):",
            f"#   tpforge quantize {_word(named)} --format {option.weight_format} --out {_word(source)}",
        ]
    values = {
        "model": source,
        "tp": option.mapping.tp_size,
        "pp": option.mapping.pp_size if option.mapping.pp_size > 1 else None,
        "moe_ep": option.mapping.moe_ep_size if option.mapping.moe_ep_size > 1 else None,
        "dtype": None if plan.ask.runtime == "pytorch" else option.dtype.value,
        **(weights or {}),
        "kv_cache": _kv_cache(plan),
        "runtime": plan.ask.runtime,
        "sm": plan.cluster.gpu.sm,
        "trtllm": plan.ask.version or _release(plan),
    }
    given = {key: value for key, value in values.items() if value is not None}
    tables: dict[str, Any] = {"limits": _limits(plan)}
    if plan.ask.runtime == "tensorrt":
        tables["tensorrt"] = {"container": "docker"}
        longest = tables["limits"]["max_seq_len"]
        parameters: dict[str, Any] = {}
        if windows := plan.blueprint.model.repeated_windows(longest=longest):
            # As render does by itself; stated, since the plan counts on it.
            parameters["max_attention_window_size"] = windows
        if plan.ask.kv_fraction != KV_FRACTION:
            parameters["kv_cache_free_gpu_mem_fraction"] = plan.ask.kv_fraction
        if parameters:
            tables["repository"] = {"parameters": parameters}
    if own := _pytorch(plan, describe=describe, folder=path.parent):
        tables["pytorch"] = own
    return "\n".join(head) + "\n" + tomli_w.dumps({**given, **tables})


def _release(plan: Plan) -> str | None:
    """The first release that runs the architecture, where the default one does not."""
    architecture = plan.blueprint.model.architecture
    if not architecture_problems(architecture, runtime=plan.ask.runtime, version=DEFAULT_RELEASE, sm=None):
        return None
    found = (one for one in architecture_support(architecture) if one.runtime == plan.ask.runtime)
    return next((one.first for one in found), None)


def _pytorch(plan: Plan, *, describe: Path | None, folder: Path) -> dict[str, Any]:
    """What runtime pytorch is given beside: a file of sizes, and types as its own arguments."""
    own: dict[str, Any] = {}
    if describe is not None:
        own["describe"] = os.path.relpath(describe.absolute(), folder.absolute())
    if plan.ask.runtime != "pytorch":
        return own
    arguments: dict[str, Any] = {"enable_attention_dp": True} if plan.chosen.attention_dp else {}
    if plan.chosen.dtype != plan.blueprint.model.dtype:
        arguments["dtype"] = plan.chosen.dtype.value
    cache: dict[str, Any] = {}
    if plan.chosen.kv_dtype != plan.chosen.dtype.value:
        cache["dtype"] = plan.chosen.kv_dtype
    if plan.ask.kv_fraction != KV_FRACTION:
        cache["free_gpu_memory_fraction"] = plan.ask.kv_fraction
    if cache:
        arguments["kv_cache_config"] = cache
    return {**own, "llm_args": arguments} if arguments else own


def _named(model: str, *, folder: Path) -> str:
    """A known model's id on the hub, a path as seen from the recipe's folder, or the name as it is."""
    if Path(model).exists():
        # A plan takes a config.json, a build wants the folder that it is in.
        where = Path(model).absolute()
        where = where.parent if where.name == "config.json" else where
        relative = os.path.relpath(where, folder.absolute())
        return relative if relative.startswith("..") else f"./{relative}"
    known = None if model == "demo" else find_known(model)
    return known.id if known is not None else model


def _word(text: str) -> str:
    """A word of a command in a comment of TOML, which has no control characters."""
    return shlex.quote("".join(letter if letter.isprintable() else "?" for letter in text))


def _calibrated(named: str, weight_format: str) -> str:
    """The folder of the calibrated checkpoint, beside the recipe."""
    return f"./{Path(named).name}-{weight_format}"


def _weights(plan: Plan) -> dict[str, Any] | None:
    """How the weights are quantized while converting; None where they must be calibrated before."""
    name = plan.chosen.weight_format
    if name is None or name == plan.blueprint.stored_format:
        return {}
    if plan.blueprint.stored_format is not None:
        raise InputRefused(
            f"--recipe: the checkpoint holds {plan.blueprint.stored_format} and cannot be made {name}"
        )
    if find_format(name).made_by == "modelopt":
        return None
    if find_format(name).made_by == "checkpoint":
        raise InputRefused(f"--recipe: {name} is read from a checkpoint and not made; plan another --format")
    portable = plan.ask.runtime == "tensorrt" and name in PORTABLE
    return {"quantize": name, "portable": True if portable else None}


def _kv_cache(plan: Plan) -> str | None:
    """The format of the cache where it is not the float type's; the LLM API has an argument for it."""
    option = plan.chosen
    if option.kv_dtype == option.dtype.value or plan.ask.runtime == "pytorch":
        return None
    if option.kv_dtype != "fp8":
        raise InputRefused(
            f"--recipe: nothing measures the steps of a {option.kv_dtype} cache for runtime "
            f"{plan.ask.runtime}; plan with --kv fp8"
        )
    return option.kv_dtype


def _limits(plan: Plan) -> dict[str, int]:
    load, speed, engine = plan.ask.load, plan.chosen.speed, plan.chosen.engine
    assert speed is not None and engine is not None
    batch, groups = speed.batch, engine.memory.cache_groups
    if load.requests_per_second is not None:
        # Requests come at random: that many run in the mean, and now and then as many as there is room for.
        held = engine.memory.max_requests(load.request_tokens)
        batch = max(batch, min(held, engine.settings.max_batch_size * groups))
    max_len = max(plan.ask.max_len, load.request_tokens)
    return {
        # With attention data parallelism every rank has a batch of its own.
        "max_batch_size": -(-batch // groups),
        "max_input_len": min(max_len - 1, max(load.input_tokens, max_len - load.output_tokens)),
        "max_seq_len": max_len,
    }
