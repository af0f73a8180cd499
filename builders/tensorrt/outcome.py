"""Whether what trtllm-build left behind is what was asked: rank files, mapping, version, settings.

It reads config.json and the names and sizes of the engines; only a GPU can load them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from builders.tensorrt.plan import BuildPlan

_RANK_FILE = re.compile(r"rank(\d+)\.engine")


def check_outcome(folder: Path, plan: BuildPlan) -> list[str]:
    """Everything in which the engines in `folder` are not those of the plan; sorted, empty when they are."""
    problems = list(_check_ranks(folder, plan.target.checkpoint.world_size))
    config_file = folder / "config.json"
    if not config_file.is_file():
        return sorted([*problems, "config.json: missing; the build did not end"])
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        return sorted([*problems, f"config.json: is not JSON: {error}"])
    return sorted([*problems, *_check_config(config, plan)])


def _check_ranks(folder: Path, world_size: int) -> Iterator[str]:
    found = {path.name for path in folder.glob("*.engine")}
    wanted = {f"rank{rank}.engine" for rank in range(world_size)}
    yield from (f"{name}: missing" for name in wanted - found)
    for name in found - wanted:
        kind = "there is no such rank" if _RANK_FILE.fullmatch(name) else "is no name of a rank"
        yield f"{name}: {kind}; expected rank0 to rank{world_size - 1}"
    yield from (f"{name}: is empty" for name in found & wanted if not (folder / name).stat().st_size)


def _check_config(config: Mapping[str, Any], plan: BuildPlan) -> Iterator[str]:
    release, checkpoint = plan.target.release, plan.target.checkpoint
    version = str(config.get("version", "missing"))
    if version != release.trtllm:
        yield f"config.json: version is {version}, asked for {release.trtllm}"
    mapping = config.get("pretrained_config", {}).get("mapping", {})
    for name in ("tp_size", "pp_size", "moe_ep_size"):
        wanted = getattr(checkpoint, name)
        if mapping.get(name, 1) != wanted:
            yield f"config.json: mapping.{name} is {mapping.get(name)}, asked for {wanted}"
    build = config.get("build_config", {})
    plugins = build.get("plugin_config", {})
    for name, wanted in plan.arguments.items():
        found = plugins.get(name, build.get(name))
        if (name in plugins or name in build) and not _same(found, wanted, dtype=checkpoint.dtype):
            yield f"config.json: {name} is {found}, asked for {wanted}"


def _same(found: Any, wanted: Any, *, dtype: str) -> bool:
    """Whether a value of config.json is what an argument meant."""
    if wanted == "enable":
        return found is True
    if wanted == "disable":
        return found in (None, False)
    if wanted == "auto":
        return found in ("auto", dtype)
    if isinstance(wanted, str) and isinstance(found, str):
        return found.rsplit(".", 1)[-1].lower() == wanted.lower()
    return bool(found == wanted)
