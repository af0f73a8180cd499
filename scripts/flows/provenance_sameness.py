"""Whether an engine that is there is the one that would be built now, and else in what it differs.

It decides nothing; `build` reuses, refuses or replaces by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scripts.flows.models import input_files
from tpforge import __version__
from tpforge.manifest import Limits, Manifest
from tpforge.quantization import Quantization

if TYPE_CHECKING:
    from builders.sources.base import Source
    from scripts.flows.build import Planned


def engine_differences(found: Manifest, planned: Planned, source: Source, *, limits: Limits) -> list[str]:
    """In what an engine is not what would be built now; the files are read only when all else is equal."""
    from engines.store import check_files

    differences = [
        f"{name} is {has}, asked for {wanted}"
        for name, has, wanted in (
            ("tpforge version", found.tpforge_version, __version__),
            ("tp", found.mapping.tp_size, planned.plan.mapping.tp_size),
            ("pp", found.mapping.pp_size, planned.plan.mapping.pp_size),
            ("moe-ep", found.mapping.moe_ep_size, planned.plan.mapping.moe_ep_size),
            ("parallel embedding", found.parallel_embedding_dim, planned.plan.parallel_embedding_dim),
            ("dtype", found.dtype, planned.dtype),
            ("quantization", _spelled(found.quantization), _spelled(planned.plan.quantization)),
            *((name, value, getattr(limits, name)) for name, value in found.limits),
        )
        if has != wanted
    ]
    if not differences and found.padding != planned.plan.padding:
        differences.append("its padding is another one")
    if found.model != planned.model or input_files(source) != found.source.files:
        differences.append(f"it was made of other files, {found.source.location}")
    return differences or check_files(planned.out, found)


def _spelled(quantization: Quantization | None) -> str:
    if quantization is None:
        return "none"
    order = None if quantization.order == "plain" else quantization.order
    group = quantization.group_size or None
    words = (quantization.format, quantization.form, group, order, quantization.kv_cache)
    return " ".join(str(word) for word in words if word is not None)
