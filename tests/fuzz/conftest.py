"""The profile of `make fuzz`, and the memory that a test here may take."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import psutil
import pytest
from hypothesis import settings

settings.register_profile("long", max_examples=2000)


@pytest.fixture(scope="package", autouse=True)
def little_memory() -> Iterator[None]:
    """A file that asks for too much must fail here by MemoryError, not take the machine along."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 30), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
