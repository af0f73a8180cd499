"""How many workers of an engine a plan wants: of one kind, or so many for prompts and so many for answers.

It reads what `tpforge plan --json` printed, and plans nothing itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tpforge.errors import InputRefused
from tpforge.manifest import Manifest
from tpforge.plan.record import PlanRecord, read_plan
from tpforge.records import Record
from tpforge.shards.mapping import Mapping


@dataclass(frozen=True)
class WorkerCounts:
    """`together` do both; or `prefill` and `decode` workers, and none that does both."""

    together: int = 0
    prefill: int = 0
    decode: int = 0


class GroupRecord(Record):
    """Workers of one kind; `batch` requests are in each at once, in one for prompts one after the other."""

    workers: int
    option: str
    tp: int
    pp: int
    batch: int = 1


class ApartRecord(Record):
    """What `tpforge plan --disaggregated --json` says beside the plan."""

    label: str
    prefill: GroupRecord
    decode: GroupRecord
    gpus: int
    requests_per_second: float
    ttft_ms: float
    tpot_ms: float
    transfer_ms: float


def read_worker_counts(path: Path, manifest: Manifest) -> WorkerCounts:
    """The counts of the plan in a file: apart where it was asked for that, else its replicas.

    Raises:
        InputRefused: it is no plan, of another model, divides a worker otherwise than the engine, or found
            no workers apart.
    """
    plan = read_plan(path)
    value = json.loads(path.read_text("utf-8"))
    if plan.architecture != manifest.model.architecture:
        raise InputRefused(
            f"{path}: is a plan of {plan.model} ({plan.architecture}), {manifest.name} is a "
            f"{manifest.model.architecture}; plan that model"
        )
    if "disaggregated" not in value:
        _refuse_division(path, plan, manifest, groups={"worker": (plan.chosen.tp, plan.chosen.pp)})
        return WorkerCounts(together=plan.chosen.replicas)
    if value["disaggregated"] is None:
        raise InputRefused(
            f"{path}: found no prefill and decode workers on {plan.num_gpus} GPUs; plan with more --gpus, or "
            "without --disaggregated"
        )
    try:
        apart = ApartRecord.model_validate(value["disaggregated"])
    except ValidationError as error:
        raise InputRefused(f"{path}: disaggregated is not what tpforge plan prints: {error}") from error
    groups = {name: (one.tp, one.pp) for name, one in _groups(apart)}
    _refuse_division(path, plan, manifest, groups=groups)
    return WorkerCounts(prefill=apart.prefill.workers, decode=apart.decode.workers)


def _groups(apart: ApartRecord) -> tuple[tuple[str, GroupRecord], ...]:
    return ("prefill worker", apart.prefill), ("decode worker", apart.decode)


def _refuse_division(
    path: Path, plan: PlanRecord, manifest: Manifest, *, groups: dict[str, tuple[int, int]]
) -> None:
    """All workers are of one engine."""
    mapping = manifest.mapping
    other = [
        f"a {name} has tp={tp} pp={pp}"
        for name, (tp, pp) in groups.items()
        if (tp, pp) != (mapping.tp_size, mapping.pp_size)
    ]
    if other:
        raise InputRefused.listing(
            f"{path}: of {plan.model}, {manifest.name} has {_words(mapping)}; plan with "
            f"--tp {mapping.tp_size}, or build an engine of the plan's size:",
            other,
        )


def _words(mapping: Mapping) -> str:
    return f"tp={mapping.tp_size} pp={mapping.pp_size}"
