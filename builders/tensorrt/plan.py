"""The arguments of one build: what the user gave, what a preset adds, what the checkpoint fixes; all checked.

It runs nothing: `command` writes the plan as a command line, `run` runs that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builders.tensorrt.presets import Goal, Setting, preset
from builders.tensorrt.relations import Arguments, find_problems, find_warnings
from builders.tensorrt.target import BuildTarget
from tpforge.errors import InputRefused
from tpforge.manifest import Limits
from tpforge.quantization import formats
from tpforge.quantization_gate import Question, judge
from tpforge.trtllm.argument_tables import build_arguments
from tpforge.trtllm.arguments import check_values

CHECKPOINT, ENGINE = "checkpoint", "engine"
"""Folders of the rank files and of the engines, inside the engine folder: the build runs there."""


@dataclass(frozen=True)
class BuildPlan:
    """A build that may be run: the arguments in the order of the command line, why, and what to know."""

    target: BuildTarget
    arguments: dict[str, Any]
    settings: tuple[Setting, ...]
    warnings: tuple[str, ...]


def plan_build(
    target: BuildTarget, *, limits: Limits, given: Mapping[str, Any], goal: Goal | None = None
) -> BuildPlan:
    """The arguments of a build of `target`.

    `given` are arguments of trtllm-build by name; they come before those of the goal and of `limits`.

    Raises:
        UsageError: an argument is unknown, of a wrong type, or not a choice.
        InputRefused: arguments contradict each other, the checkpoint or the GPUs; all of it at once.
    """
    table = build_arguments(target.release)
    own = check_values(given, table, what=f"trtllm-build of TensorRT-LLM {target.release.trtllm}")
    settings = preset(goal, target) if goal else ()
    added = tuple(setting for setting in settings if setting.name not in own)
    arguments = {
        **_of_limits(limits),
        "workers": min(target.checkpoint.world_size, target.num_gpus or target.checkpoint.world_size),
        **{setting.name: setting.value for setting in added},
        **own,
    }
    _cut_num_tokens(arguments, own)
    defaults = {one.name: one.default for one in table}
    checked = Arguments(arguments, defaults)
    problems = [*find_problems(checked, target), *_format_problems(target)]
    if problems:
        where = f"{target.checkpoint.architecture}, tp={target.checkpoint.tp_size}"
        raise InputRefused.listing(
            f"trtllm-build {target.release.trtllm} would fail, or not do what was asked ({where}):", problems
        )
    ordered = {one.name: arguments[one.name] for one in table if one.name in arguments}
    return BuildPlan(target, ordered, added, tuple(find_warnings(checked, target)))


def _of_limits(limits: Limits) -> dict[str, int]:
    return {
        "max_batch_size": limits.max_batch_size,
        "max_input_len": limits.max_input_len,
        "max_seq_len": limits.max_seq_len,
    }


def _cut_num_tokens(arguments: dict[str, Any], own: Mapping[str, Any]) -> None:
    """Keep what a preset or a default gives below what all requests together can have."""
    most = arguments["max_seq_len"] * arguments["max_batch_size"]
    if "max_num_tokens" not in own and arguments.get("max_num_tokens", 0) > most:
        arguments["max_num_tokens"] = most


def _format_problems(target: BuildTarget) -> list[str]:
    """Why the checkpoint's quantization does not work; nothing when any format of that algorithm does."""
    algo = target.checkpoint.quant_algo
    rows = [row for row in formats() if row.algo == algo]
    if algo is None or not rows:
        return [] if algo is None else [f"quantization {algo}: is not in the table of formats"]
    verdicts = [
        judge(
            Question(
                format=row.name,
                runtime="tensorrt",
                version=target.release.trtllm,
                sm=target.sm,
                architecture=target.checkpoint.architecture,
            )
        )
        for row in rows
    ]
    return [] if any(verdict.works for verdict in verdicts) else list(verdicts[0].problems)
