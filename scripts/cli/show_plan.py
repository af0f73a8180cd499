"""Prints what --dry-run found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.cli.output import Output
from scripts.reports.columns import table
from tpforge.units import counted, format_bytes

if TYPE_CHECKING:
    from scripts.flows.folders.planned_folder import PlannedFolder


def print_plan(output: Output, folder: PlannedFolder) -> None:
    """The files that would be written, with their sizes."""
    planned = folder.conversion
    total = sum(planned.file_sizes.values())
    for note in planned.notes:
        output.note(f"note: {note}")
    for name, reason in planned.dropped.items():
        output.note(f"left out: {name}: {reason}")
    mapping = planned.plan.mapping
    output.result(
        f"would write {folder.out}: tp={mapping.tp_size} pp={mapping.pp_size} {planned.dtype}, "
        f"{counted(mapping.world_size, 'rank')}, {format_bytes(total)}"
    )
    rows = [(name, format_bytes(size)) for name, size in planned.file_sizes.items()]
    output.result(table(rows, header=("file", "size")))
    output.record(
        "plan",
        {
            "name": folder.name,
            "out": str(folder.out),
            "dtype": planned.dtype.value,
            "mapping": mapping.model_dump(),
            "padding": planned.plan.padding.model_dump(),
            "file_sizes": planned.file_sizes,
            "dropped_tensors": planned.dropped,
            "notes": list(planned.notes),
        },
    )
