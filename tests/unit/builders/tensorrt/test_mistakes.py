"""Mistakes that people make with TensorRT-LLM and Triton: each is refused before anything is launched.

``issue`` is where upstream's users met it: L is NVIDIA/TensorRT-LLM, T is
triton-inference-server/tensorrtllm_backend; None where no issue of it was found. Each was looked up.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.mistakes.building import BUILDING
from tests.support.mistakes.making import (
    Mistake,
)
from tests.support.mistakes.serving import SERVING
from tpforge.errors import TpforgeError

MISTAKES = (*BUILDING, *SERVING)


def test_there_are_forty_of_them_and_no_two_are_the_same() -> None:
    assert len({mistake.name for mistake in MISTAKES}) == len(MISTAKES) >= 40


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_refused_before_launch_with_the_reason(mistake: Mistake, tmp_path: Path) -> None:
    try:
        said = "\n".join(mistake.attempt(tmp_path) or [])
    except TpforgeError as error:
        assert error.exit_code in (2, 3, 4)
        said = str(error)
    assert mistake.said in said
