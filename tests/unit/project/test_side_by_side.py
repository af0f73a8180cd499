"""Which tests several processes keep together: those of a file, and those that ask the session's servers.

A mistake here fails no test but starts the same servers in every process.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadGroupScheduling


def groups(request: pytest.FixtureRequest) -> dict[str, set[str]]:
    """The groups of the tests of each file, as xdist's scheduler reads them; a skip when it does not run."""
    if not hasattr(request.config, "workerinput"):
        pytest.skip("one process runs all tests: pytest -n 2 --dist loadgroup")
    found: dict[str, set[str]] = {}
    for item in request.session.items:
        if item.get_closest_marker("apart") is None:
            group = LoadGroupScheduling._split_scope(None, item.nodeid)  # type: ignore[arg-type]
            found.setdefault(item.nodeid.partition("::")[0], set()).add(group)
    return found


def test_the_tests_of_a_file_stay_together(request: pytest.FixtureRequest) -> None:
    assert {file: kept for file, kept in groups(request).items() if len(kept) != 1} == {}


def test_the_tests_of_two_files_may_run_at_once_unless_they_ask_the_same_servers(
    request: pytest.FixtureRequest,
) -> None:
    together: dict[str, list[str]] = {}
    for file, kept in groups(request).items():
        for group in kept:
            together.setdefault(group, []).append(file)
    several = {group for group, files in together.items() if len(files) > 1}
    assert several <= {"the session's servers"}
