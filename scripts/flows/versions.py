"""The releases that are known, how old that knowledge is, and what an installation says of itself, kept.

It prints nothing; what is asked is `engines.learning`'s, and what is kept `tpforge.trtllm.learned`'s.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from engines.host import container_problem, find_host
from engines.learning import learn_by_container, learn_by_python
from tpforge.errors import EnvironmentUnusable, UsageError
from tpforge.outputs.atomic import refuse_existing, write_atomic
from tpforge.trtllm.learned import Learned, learned_path, read_learned, to_text
from tpforge.trtllm.versions import DEFAULT_RELEASE, Release, find_release, known_releases, tables_read


@dataclass(frozen=True)
class Learning:
    """What was learned, and the files that hold it."""

    learned: Learned
    kept: Path
    out: Path | None


@dataclass(frozen=True)
class Known:
    """All releases, and how old the tables are."""

    releases: tuple[Release, ...]
    read: date
    days: int

    @property
    def stable(self) -> Release:
        """The newest release that is no candidate."""
        return [one for one in self.releases if not one.is_candidate][-1]

    @property
    def candidate(self) -> Release | None:
        """The newest release candidate after it; None when there is none."""
        newest = self.releases[-1]
        return newest if newest.is_candidate else None


def learn(
    *,
    container: str | None,
    image: str | None,
    python: str | None,
    trtllm: str | None,
    source: Path | None,
    out: Path | None,
    force: bool,
) -> Learning:
    """What an installation, or the file of one, says; kept in the user's data folder, and in `out`.

    Raises:
        UsageError: options contradict each other.
        EnvironmentUnusable: there is no such program, or it starts no containers.
        InputRefused: nothing can be learned there, or `out` exists.
    """
    ways = {"--container": container, "--python": python, "--learned": source}
    if len(given := [name for name, value in ways.items() if value is not None]) > 1:
        raise UsageError(f"{' and '.join(given)}: give one of them")
    if container is None and (image is not None or trtllm is not None):
        raise UsageError(
            "--image and --trtllm say which container is asked: give --container docker or podman"
        )
    if out is not None and out.exists() and not force:
        refuse_existing(out, force=False)
    if source is not None:
        learned = read_learned(source)
    elif container is not None:
        learned = _by_container(container, image=image, trtllm=trtllm)
    else:
        learned = learn_by_python(python or sys.executable)
    kept = learned_path(learned.trtllm)
    write_atomic(kept, to_text(learned))
    if out is not None:
        write_atomic(out, to_text(learned))
    return Learning(learned, kept, out)


def known(today: date | None = None) -> Known:
    """The releases of the tables and those that were learned, with the tables' age."""
    read = tables_read()
    return Known(known_releases(), read, ((today or date.today()) - read).days)


def _by_container(engine: str, *, image: str | None, trtllm: str | None) -> Learned:
    if problem := container_problem(engine):
        raise EnvironmentUnusable(problem)
    release = find_release(trtllm or DEFAULT_RELEASE)
    asked = image or release.release_image
    if asked is None:
        raise UsageError(f"TensorRT-LLM {release.trtllm}: no container of its own is known; give --image")
    return learn_by_container(engine, image=asked, gpus=bool(find_host().gpus))
