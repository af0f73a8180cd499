"""stages.json beside an engine: what its repository, its proof and its running server were made of.

It only keeps; a step that finds what it would make to be the same skips its work itself.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import ValidationError

from tpforge.outputs.atomic import exclusive, write_atomic
from tpforge.outputs.places import Places
from tpforge.outputs.provenance import Provenance, differences

Step = Literal["render", "verify", "serve"]


def is_unchanged(places: Places, step: Step, *, asked: Provenance) -> bool:
    """Whether what a step last made was made of the same as it would be now."""
    kept = kept_stage(places, step)
    return kept is not None and not differences(kept, asked)


def kept_stage(places: Places, step: Step) -> Provenance | None:
    """What a step last made its output of; None when it is not known, or kept by another version."""
    try:
        return Provenance.model_validate(_read(places).get(step))
    except ValidationError:
        return None


def kept_options(places: Places, step: Step) -> dict[str, Any]:
    """The options of a step the last time, whatever version kept them; empty when they are not known."""
    kept = _read(places).get(step)
    options = kept.get("options") if isinstance(kept, dict) else None
    return options if isinstance(options, dict) else {}


def keep_stage(places: Places, step: Step, provenance: Provenance) -> None:
    """Keep what a step made its output of."""
    with exclusive(places.stages):
        stages = {**_read(places), step: provenance.model_dump(mode="json")}
        write_atomic(places.stages, json.dumps(stages, indent=2, sort_keys=True) + "\n")


def _read(places: Places) -> dict[str, Any]:
    try:
        value = json.loads(places.stages.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
