"""What a build by trtllm-build would do: the conversion, the arguments and why, the command, the script.

It writes and runs nothing; `compile` does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from builders.sources import models
from scripts.flows.folders.planned_folder import PlannedFolder, plan_engine_folder
from tpforge.errors import InputRefused
from tpforge.manifest import Limits
from tpforge.recipe import EngineRecipe
from tpforge.trtllm.build_command import command_words
from tpforge.trtllm.typed_values import write_value
from tpforge.trtllm.versions import release_for

if TYPE_CHECKING:
    from builders.tensorrt.command import BuildCommand
    from builders.tensorrt.plan import BuildPlan
    from engines.host import Host


@dataclass(frozen=True)
class Compilation:
    """What a build would do; `planned` is None when MODEL is a TensorRT-LLM checkpoint already."""

    out: Path
    planned: PlannedFolder | None
    limits: Limits
    plan: BuildPlan
    command: BuildCommand
    script: str


def plan_compilation(recipe: EngineRecipe, *, out: Path | None) -> Compilation:
    """What a build would do for `recipe`; nothing is written.

    Raises:
        TpforgeError: whatever would keep it from being built, as far as it can be known without a GPU.
    """
    from engines.host import find_host

    host = find_host()
    if is_checkpoint(recipe.model):
        return _plan_of_checkpoint(recipe, host, out=out)
    with models.open_model(recipe.model) as source:
        planned = plan_engine_folder(recipe, source, out=out)
        limits = recipe.limits.resolve(source.spec)
    config = planned.conversion.config
    return _compilation(recipe, host, out=planned.out, planned=planned, limits=limits, config=config)


def is_checkpoint(model: str) -> bool:
    """Whether MODEL is a folder with the config.json of a TensorRT-LLM checkpoint."""
    file = Path(model) / "config.json"
    if not file.is_file():
        return False
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(config, dict) and "architecture" in config and "mapping" in config


def _plan_of_checkpoint(recipe: EngineRecipe, host: Host, *, out: Path | None) -> Compilation:
    from builders.tensorrt.rank_order import order_problems

    folder = Path(recipe.model)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if problems := order_problems(folder, (config.get("quantization") or {}).get("quant_algo")):
        raise InputRefused.listing(f"{folder}: trtllm-build would misread it:", problems)
    positions = int(config.get("max_position_embeddings") or 0)
    asked = recipe.limits
    max_seq_len = asked.max_seq_len or min(2048, positions or 2048)
    limits = Limits(
        max_batch_size=asked.max_batch_size,
        max_input_len=asked.max_input_len or max(1, max_seq_len // 2),
        max_seq_len=max_seq_len,
    )
    return _compilation(recipe, host, out=out or folder.parent, planned=None, limits=limits, config=config)


def _compilation(
    recipe: EngineRecipe,
    host: Host,
    *,
    out: Path,
    planned: PlannedFolder | None,
    limits: Limits,
    config: dict[str, Any],
) -> Compilation:
    from builders.tensorrt.command import build_command, build_script
    from builders.tensorrt.plan import plan_build
    from builders.tensorrt.target import BuildTarget, read_facts

    target = BuildTarget(
        release=release_for(recipe.trtllm, runtime="tensorrt"),
        checkpoint=read_facts(config, where=recipe.model),
        sm=recipe.sm or host.sm,
        num_gpus=len(host.gpus) or None,
    )
    settings = recipe.tensorrt
    plan = plan_build(target, limits=limits, given=settings.build_args, goal=settings.optimize_for)
    command = build_command(plan, where=where_to_run(recipe), folder=out.absolute(), image=settings.image)
    return Compilation(out, planned, limits, plan, command, build_script(command, plan))


def where_to_run(recipe: EngineRecipe) -> Literal["host", "docker", "podman", "slurm"]:
    """What runs trtllm-build: this host, or a container by one of these."""
    container = recipe.tensorrt.container
    return "host" if container == "none" else container


def command_of(recipe: EngineRecipe, compilation: Compilation) -> tuple[str, ...]:
    """The command line that makes the same engine, with every default spelled out."""
    planned = compilation.planned
    assert planned is not None
    words = command_words(recipe, limits=compilation.limits, dtype=planned.conversion.dtype)
    found, sm = planned.conversion.plan.quantization, recipe.sm
    if found is not None and found.order in ("sm80", "sm90"):
        sm = compilation.plan.target.sm  # Decides the bytes, though it was not given.
    return (*words, *_own_words(recipe, sm=sm))


def _own_words(recipe: EngineRecipe, *, sm: int | None) -> tuple[str, ...]:
    """The options of `tpforge build` that only this runtime has, as they were given."""
    settings = recipe.tensorrt
    words = ["--trtllm", recipe.trtllm]
    words += ["--sm", str(sm)] if sm else []
    words += ["--optimize-for", settings.optimize_for] if settings.optimize_for else []
    words += ["--container", settings.container] if settings.container != "none" else []
    words += ["--image", settings.image] if settings.image else []
    for name, value in settings.build_args.items():
        words += ["--build-arg", f"{name}={write_value(value).replace(' ', ',')}"]
    return tuple(words)
