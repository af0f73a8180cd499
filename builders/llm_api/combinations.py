"""Features of the LLM API that do not go together, as problems and warnings of a release.

Which they are is data: tpforge/trtllm/relations.toml. Relations of sizes are `builders.llm_api.arguments`'s.
"""

from __future__ import annotations

from collections.abc import Iterator

from tpforge.trtllm.learned import NAME
from tpforge.trtllm.relations import Asked, broken
from tpforge.trtllm.versions import Release, version_key

_NEWEST = "1.4"


def refused(asked: Asked, *, release: Release) -> Iterator[str]:
    """What upstream refuses, or would not do, of what is asked for together."""
    table = _table(release)
    if not _is_newer(release):
        yield from broken(asked, table=table, verdict="refused")


def doubted(asked: Asked, *, release: Release) -> Iterator[str]:
    """What upstream ignores, and what may work though upstream has not tried it."""
    table = _table(release)
    yield from broken(asked, table=table, verdict="ignored")
    yield from broken(asked, table=table, verdict="untested")
    if _is_newer(release):
        for one in broken(asked, table=table, verdict="refused"):
            yield f"{one}; so it was in {table}, and {release.trtllm} was not read for it"


def _table(release: Release) -> str:
    """The table whose relations hold; of a release that was learned, the one of its line or the newest."""
    if release.llm_arguments not in (NAME, None):
        return str(release.llm_arguments)
    line = ".".join(release.trtllm.split(".")[:2])
    return _NEWEST if _is_newer(release) else line


def _is_newer(release: Release) -> bool:
    """Whether it is of a line that nothing was read of; only a learned one can be."""
    line = ".".join(release.trtllm.split(".")[:2])
    return release.llm_arguments == NAME and version_key(line) > version_key(_NEWEST)
