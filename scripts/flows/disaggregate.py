"""From two engines to the files of disaggregated serving. Composes engines and triton_repo.

It prints nothing and starts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tpforge.outputs.atomic import atomic_folder
from tpforge.outputs.places import find_engine

if TYPE_CHECKING:
    from triton_repo.trtllm_serve.disaggregated import Transceiver


@dataclass(frozen=True)
class Written:
    """The folder, its files, and how many GPUs they want."""

    folder: Path
    files: tuple[str, ...]
    num_gpus: int


def write_disaggregated(
    context: str,
    generation: str | None,
    *,
    num_context: int,
    num_generation: int,
    transceiver: Transceiver,
    host: str,
    port_base: int,
    out: Path,
    force: bool,
) -> Written:
    """Write the files of servers for prompts and servers for answers; without `generation` of one engine.

    Raises:
        InputRefused: an engine is not sound, the two cannot serve one model, or `out` exists.
    """
    from engines.store import read_manifest
    from triton_repo.trtllm_serve.disaggregated import START, Disaggregated, Group, disaggregated_files

    groups = []
    for engine, count in ((context, num_context), (generation or context, num_generation)):
        folder = find_engine(engine).engine
        groups.append(Group(folder.resolve(), read_manifest(folder), count))
    asked = Disaggregated(groups[0], groups[1], transceiver, out.absolute(), host, port_base)
    texts = disaggregated_files(asked)
    with atomic_folder(out, force=force) as temporary:
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")
        (temporary / START).chmod(0o755)
    return Written(out, tuple(sorted(texts)), asked.num_gpus)
