"""What `tpforge inspect` finds in a checkpoint. It reads headers and configs, not weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod

from scripts.pipeline import open_model
from tpforge.errors import PlanError
from tpforge.model import ModelSpec
from tpforge.padding import plan_padding

TP_SIZES = (1, 2, 4, 8)


@dataclass(frozen=True)
class Inspection:
    """A sound checkpoint; `divisions` say in words what each tp_size would do to it."""

    source: str
    location: str
    revision: str | None
    license: str | None
    model: ModelSpec
    num_tensors: int
    num_parameters: int
    dropped: dict[str, str]
    notes: tuple[str, ...]
    divisions: tuple[tuple[int, str], ...]

    def to_dict(self) -> dict[str, object]:
        """For --json."""
        divisions = [{"tp": tp, "division": text} for tp, text in self.divisions]
        return {**asdict(self), "model": self.model.model_dump(mode="json"), "divisions": divisions}


def inspect_model(location: str) -> Inspection:
    """Open a checkpoint, check its tensors against its config, and see how it divides.

    Raises:
        InputRefused: it is not sound.
    """
    from builders.audit import audit

    with open_model(location) as source:
        dropped = audit(source)
        held = {name: shape for name, shape in source.shapes.items() if name not in dropped}
        return Inspection(
            source=source.kind,
            location=str(source.path),
            revision=source.revision,
            license=source.license,
            model=source.spec,
            num_tensors=len(held),
            num_parameters=sum(prod(shape) for shape in held.values()),
            dropped=dropped,
            notes=source.notes,
            divisions=tuple((tp, _division(source.spec, tp)) for tp in TP_SIZES),
        )


def _division(spec: ModelSpec, tp_size: int) -> str:
    try:
        padding = plan_padding(spec, tp_size=tp_size)
    except PlanError as error:
        return f"impossible: {error}"
    heads = padding.heads
    held = f"{heads.num_heads // tp_size} heads, {max(1, heads.num_kv_heads // tp_size)} KV a rank"
    if tp_size > heads.num_kv_heads:
        held += f", each KV head on {tp_size // heads.num_kv_heads} ranks"
    return "; ".join([held, *padding.notes])
