"""A server where few files may be open: the limit is raised where that is allowed, else it is refused."""

from __future__ import annotations

import resource

import pytest

from tpforge.errors import EnvironmentUnusable
from triton_repo.serve.tritonserver import make_room_for_files


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The limits that this process is said to have, the newest last."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr("resource.getrlimit", lambda _kind: found[-1])
    monkeypatch.setattr("resource.setrlimit", lambda _kind, pair: found.append(pair))
    return found


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((64, 4096), (256, 4096)),
        ((64, resource.RLIM_INFINITY), (256, resource.RLIM_INFINITY)),
        ((1024, 4096), (1024, 4096)),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)),
    ],
)
def test_a_low_limit_is_raised_and_another_one_left(
    before: tuple[int, int], after: tuple[int, int], limits: list[tuple[int, int]]
) -> None:
    limits.append(before)
    make_room_for_files()
    assert limits[-1] == after


def test_a_limit_that_cannot_be_raised_is_refused(limits: list[tuple[int, int]]) -> None:
    limits.append((64, 64))
    with pytest.raises(
        EnvironmentUnusable, match=r"only 64 files may be open here \(`ulimit -n`\), expected 256"
    ):
        make_room_for_files()
    assert limits == [(64, 64)]
