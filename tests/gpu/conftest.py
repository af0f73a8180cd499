"""These tests need an NVIDIA GPU that torch sees; elsewhere each is skipped, and says so."""

from __future__ import annotations

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    reason = f"no NVIDIA GPU: torch {torch.__version__} sees no CUDA device"
    for item in items:
        if "tests/gpu/" in item.path.as_posix():
            item.add_marker(pytest.mark.skip(reason=reason))
