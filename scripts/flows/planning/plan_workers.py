"""How many workers a plan asks for, as options of a deployment.

It reads what `tpforge plan --json` printed, and plans nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpforge.errors import InputRefused, UsageError
from tpforge.outputs.atomic import os_errors
from tpforge.units import counted

_EXPECTED = "expected what `tpforge plan --json` prints"


def planned_workers(path: Path, *, world_size: int, is_dynamo: bool) -> dict[str, int]:
    """`replicas`, or `prefill_workers` and `decode_workers` where the plan puts them apart and Dynamo serves.

    Raises:
        InputRefused: the file is no plan.
        UsageError: the plan is of workers of another size than the engine.
    """
    record = _read(path)
    apart = record.get("disaggregated")
    if apart is not None and is_dynamo:
        prefill, decode = apart["prefill"], apart["decode"]
        for role, part in (("prefill", prefill), ("decode", decode)):
            _refuse_size(path, part["gpus_per_worker"], world_size=world_size, what=f"{role} workers")
        return {"prefill_workers": prefill["workers"], "decode_workers": decode["workers"]}
    chosen = record["chosen"]
    _refuse_size(path, chosen["tp"] * chosen["pp"], world_size=world_size, what="replicas")
    return {"replicas": chosen["replicas"]}


def _read(path: Path) -> Mapping[str, Any]:
    with os_errors(path):
        text = path.read_text(encoding="utf-8")
    try:
        record = json.loads(text)
    except ValueError as error:
        raise InputRefused(
            f"{path}: is no JSON ({error}); expected what `tpforge plan --json` prints"
        ) from error
    if not isinstance(record, dict) or record.get("kind") != "deployment_plan":
        kind = record.get("kind") if isinstance(record, dict) else None
        raise InputRefused(f"{path}: is of kind {kind}; {_EXPECTED}")
    return record


def _refuse_size(path: Path, planned: int, *, world_size: int, what: str) -> None:
    if planned != world_size:
        raise UsageError(
            f"{path}: plans {what} of {counted(planned, 'GPU')}, the engine has "
            f"{counted(world_size, 'rank')}; build an engine of that size, or plan "
            "with the engine's --tp and --pp"
        )
