"""Prints what --dry-run found for the runtimes of TensorRT-LLM: settings with reasons, commands, files."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from scripts.cli.output import Output
from scripts.reports.columns import table
from tpforge.trtllm.argument_tables import build_arguments
from tpforge.trtllm.typed_values import write_value
from tpforge.units import counted

if TYPE_CHECKING:
    from builders.llm_api.engine import LlmEngine
    from scripts.flows.folders.compilation import Compilation

UNRUN = "nothing of this was run: TensorRT-LLM needs an NVIDIA GPU"


def print_compilation(output: Output, compilation: Compilation) -> None:
    """The plan for people, or as one object."""
    plan = compilation.plan
    planned = compilation.planned.conversion if compilation.planned else None
    target = plan.target
    release, checkpoint = target.release, target.checkpoint
    for note in planned.notes if planned else ():
        output.note(f"note: {note}")
    for warning in plan.warnings:
        output.note(f"warning: {warning}")
    output.result(f"engine folder  {compilation.out}")
    output.result(
        f"checkpoint     {checkpoint.architecture} {checkpoint.dtype}, "
        f"{checkpoint.quant_algo or 'not quantized'}, tp={checkpoint.tp_size} pp={checkpoint.pp_size} "
        f"moe_ep={checkpoint.moe_ep_size}, {counted(checkpoint.world_size, 'rank')}"
    )
    output.result(
        f"release        TensorRT-LLM {release.trtllm}, TensorRT {release.tensorrt}, CUDA {release.cuda}, "
        f"driver {release.driver} or newer"
    )
    output.result(f"container      {release.image}")
    reasons = {setting.name: f"{setting.why} ({setting.source})" for setting in plan.settings}
    meanings = {one.name: one.meaning for one in build_arguments(release)}
    rows = [
        (name, write_value(value), reasons.get(name, meanings[name]))
        for name, value in plan.arguments.items()
    ]
    output.result("\n" + table(rows, header=("argument", "value", "why")))
    output.result(f"\n$ cd {shlex.quote(str(compilation.command.folder))}\n$ {compilation.command.line}")
    output.result(f"\nbuild.sh:\n{compilation.script}")
    output.note(UNRUN)
    output.record("compilation", _facts(compilation))


def _facts(compilation: Compilation) -> dict[str, Any]:
    """The object that --json prints."""
    plan, target = compilation.plan, compilation.plan.target
    planned = compilation.planned.conversion if compilation.planned else None
    return {
        "out": str(compilation.out),
        "release": target.release.trtllm,
        "image": target.release.image,
        "sm": target.sm,
        "num_gpus": target.num_gpus,
        "mapping": planned.plan.mapping.model_dump() if planned else None,
        "file_sizes": planned.file_sizes if planned else {},
        "limits": compilation.limits.model_dump(),
        "arguments": plan.arguments,
        "settings": [vars(setting) for setting in plan.settings],
        "folder": str(compilation.command.folder),
        "command": list(compilation.command.words),
        "script": compilation.script,
        "warnings": list(plan.warnings),
        "run": False,
    }


def print_llm_engine(output: Output, engine: LlmEngine) -> None:
    """The engine folder of runtime pytorch, as it would be written."""
    release, model = engine.release, engine.model
    for line in (*engine.quantization.notes, *engine.plan.warnings):
        output.note(f"warning: {line}")
    output.result(f"engine folder  {engine.out}")
    algo = engine.quantization.algo or "not quantized"
    output.result(
        f"model          {model.spec.architecture} {model.spec.dtype}, {algo}, "
        f"{counted(engine.num_ranks, 'rank')}; {len(model.files)} files go to model/ as they are"
    )
    output.result(
        f"release        TensorRT-LLM {release.trtllm}, CUDA {release.cuda}"
        + (f", driver {release.driver} or newer" if release.driver else "")
    )
    output.result(f"container      {release.image or release.release_image}")
    output.result(f"arguments by   {engine.plan.checked_by}")
    output.result(f"\nllm.yaml:\n{engine.yaml}")
    output.note(UNRUN)
    output.record(
        "llm_engine",
        {
            "out": str(engine.out),
            "release": release.trtllm,
            "image": release.image,
            "sm": engine.sm,
            "mapping": engine.mapping.model_dump(),
            "limits": engine.limits.model_dump(),
            "quant_algo": engine.quantization.algo,
            "arguments": engine.plan.arguments,
            "unchecked": engine.plan.unchecked,
            "checked_by": engine.plan.checked_by,
            "release_image": release.release_image,
            "llm_yaml": engine.yaml,
            "files": [str(path) for path in model.files],
            "warnings": list(engine.plan.warnings),
            "run": False,
        },
    )
