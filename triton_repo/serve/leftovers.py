"""Removes what a server leaves: processes, those beside it, container, shared memory, temporary files.

By its mark, so that nothing else is hit. It stops no supervisor.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from triton_repo.serve import processes, state
from triton_repo.serve.companions import companions_mark
from triton_repo.serve.launched import ContainerName, remove_container
from triton_repo.serve.private import private_folder

TEMPORARY = "tmp"


def clean_state(found: state.ServerState, state_dir: Path) -> None:
    """Remove all that the server of a state left, and forget it."""
    processes.kill_marked(companions_mark(found.mark))
    clean(found.mark, state_dir, container=found.container, shared_memory=found.shared_memory)
    state.remove_state(state_dir)


def clean_leftovers(state_dir: Path) -> None:
    """End what an earlier supervisor of this folder left behind when it was killed."""
    old = state.read_state(state_dir)
    if old is not None:
        clean_state(old, state_dir)


def clean(
    mark: str,
    state_dir: Path,
    *,
    container: ContainerName | None = None,
    shared_memory: str | None = None,
) -> None:
    """Kill all processes of a mark, and remove their container, shared memory and temporary files."""
    processes.kill_marked(mark)
    if container is not None:
        remove_container(container, mark=mark)
    for prefix in (f"{mark}_", *([shared_memory] if shared_memory else [])):
        processes.remove_shared_memory(prefix)
    shutil.rmtree(private_folder(state_dir) / TEMPORARY, ignore_errors=True)
