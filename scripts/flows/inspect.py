"""What `tpforge inspect` finds out about a checkpoint by its name, from headers and configs alone.

It prints nothing; what is found is `builders.inspection`'s.
"""

from __future__ import annotations

from pathlib import Path

from builders.audit.survey import survey
from builders.inspection import Inspection, inspect_survey
from builders.sources import locate
from builders.sources.models import model_location
from tpforge.progress import BytesProgress
from tpforge.shards.mapping import Mapping


def inspect_model(
    location: str,
    *,
    mapping: Mapping,
    deep: bool = False,
    describe: Path | None = None,
    progress: BytesProgress | None = None,
) -> Inspection:
    """Look at a checkpoint, and see how it divides; `deep` looks at every weight.

    `describe` is a file of sizes, where config.json is of an architecture that is not known.

    Raises:
        InputRefused: nothing is known of it: there is none, or no config.json that can be read.
    """
    bare, revision = model_location(location)
    found = survey(locate(bare, revision=revision), deep=deep, describe=describe, progress=progress)
    return inspect_survey(found, mapping=mapping)
