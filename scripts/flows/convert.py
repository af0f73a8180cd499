"""From a model to a TensorRT-LLM checkpoint alone, and how an interrupted conversion is resumed.

It prints nothing; `build` makes a whole engine folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from builders.conversion.journal import is_resumable
from builders.sources.models import open_model
from scripts.flows.folders.planned_folder import PlannedFolder, plan_checkpoint_folder
from tpforge.extras import require_extra
from tpforge.outputs.atomic import atomic_folder, partial_folder
from tpforge.outputs.written import note_files
from tpforge.progress import BytesProgress, Progress
from tpforge.recipe import EngineRecipe

if TYPE_CHECKING:
    from builders.conversion.convert import Conversion


def plan_checkpoint(recipe: EngineRecipe, *, out: Path | None) -> PlannedFolder:
    """What `convert_checkpoint` would write for `recipe`.

    Raises:
        TpforgeError: whatever would keep it from being written.
    """
    with open_model(recipe.model) as source:
        return plan_checkpoint_folder(recipe, source, out=out)


def convert_checkpoint(
    recipe: EngineRecipe,
    *,
    out: Path | None,
    force: bool,
    resume: bool = False,
    progress: Progress,
    meter: BytesProgress | None = None,
) -> tuple[Path, Conversion]:
    """Write the TensorRT-LLM checkpoint alone, by default to out/NAME/checkpoint; where it is, and what.

    Raises:
        EnvironmentUnusable: torch is not installed.
        InputRefused: `out` exists and `force` is not given, or the model is refused.
    """
    require_extra("convert", needed_by="converting")
    with open_model(recipe.model) as source:
        # Refused before a folder is made, and before torch is imported, which takes longer than to refuse.
        planned = plan_checkpoint_folder(recipe, source, out=out)
        from builders.conversion.convert import convert

        with resumable_folder(planned.out, force=force, resume=resume, progress=progress) as folder:
            conversion = convert(source, planned.conversion, out=folder, progress=meter)
            note_files(folder, conversion.files)
    return planned.out, conversion


@contextmanager
def resumable_folder(final: Path, *, force: bool, resume: bool, progress: Progress) -> Iterator[Path]:
    """As `atomic_folder`; after an interrupt, what a conversion wrote stays for `--resume`."""
    partial = partial_folder(final)
    if is_resumable(partial) and not resume:
        progress(f"starting over: {partial} of an interrupted run is removed (--resume would continue it)")
    try:
        with atomic_folder(final, force=force, resume=resume, keep=is_resumable) as folder:
            yield folder
    except BaseException:
        if is_resumable(partial):
            progress(f"{partial} is kept: --resume continues it, a plain run starts over")
        raise
