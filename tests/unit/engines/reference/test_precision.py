"""Logits have the resolution of float32 whatever the blocks compute in, and so has the choice of a token."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engines.reference import Sampling, load_config
from engines.reference.batches import Logits, Prefill
from engines.reference.greedy import greedy
from engines.reference.lockstep import Lockstep
from engines.reference.sampling import Sampler
from tests.support.tiny_engine import write_tiny_engine

PROMPT = tuple((7 * i * i + 3 * i + 1) % 256 for i in range(20))
HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def ranks_of(engine: Path, dtype: torch.dtype) -> Lockstep:
    return Lockstep(load_config(engine), num_slots=1, device=torch.device("cpu"), dtype=dtype)


def watch_last_hidden(ranks: Lockstep) -> list[Tensor]:
    """What goes into the LM head, kept whenever it is computed."""
    seen: list[Tensor] = []
    last = ranks.ranks[-1]
    norm: Callable[[Tensor], Tensor] = last._final_norm

    def watched(hidden: Tensor) -> Tensor:
        seen.append(norm(hidden))
        return seen[-1]

    last._final_norm = watched  # type: ignore[assignment]
    return seen


def heads(engine: Path, *, tp_size: int) -> Tensor:
    files = [load_file(engine / "checkpoint" / f"rank{rank}.safetensors") for rank in range(tp_size)]
    return torch.cat([file["lm_head.weight"] for file in files])


@HALVES
@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_logits_are_the_head_times_the_last_hidden_state_without_rounding(
    tmp_path: Path, tp_size: int, dtype: torch.dtype
) -> None:
    engine, _, _ = write_tiny_engine(tmp_path, tp_size=tp_size)
    ranks = ranks_of(engine, dtype)
    seen = watch_last_hidden(ranks)
    logits = ranks.forward(Prefill(0, 0, PROMPT, Logits.ALL))
    assert logits is not None and logits.dtype == torch.float32
    assert seen[0].dtype == dtype
    expected = seen[0].double() @ heads(engine, tp_size=tp_size).double().T
    torch.testing.assert_close(logits.double(), expected[:, : logits.shape[1]], atol=1e-5, rtol=1e-5)


def make_twins(engine: Path) -> None:
    """Tokens 5 and 6 are by far the likeliest, at logits of 25 and 25.01: one step of bfloat16 is 0.125."""
    ranks = ranks_of(engine, torch.float32)
    seen = watch_last_hidden(ranks)
    ranks.forward(Prefill(0, 0, PROMPT))
    last = seen[0][-1]
    file = engine / "checkpoint" / "rank0.safetensors"
    tensors = load_file(file)
    head = torch.zeros_like(tensors["lm_head.weight"])
    head[5] = last * 25 / last.dot(last)
    head[6] = head[5] * 1.0004
    save_file(tensors | {"lm_head.weight": head}, file)


@HALVES
def test_the_likelier_of_two_tokens_within_a_step_of_the_dtype_is_chosen(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    engine, _, _ = write_tiny_engine(tmp_path)
    make_twins(engine)
    ranks = ranks_of(engine, dtype)
    logits = ranks.forward(Prefill(0, 0, PROMPT))
    assert logits is not None
    first, second = logits[0, 6].item(), logits[0, 5].item()
    assert second > 20 and first / second == pytest.approx(1.0004, abs=2e-5)
    assert greedy(ranks, list(PROMPT), 1) == [6]


@HALVES
def test_penalties_part_what_the_dtype_would_not(tmp_path: Path, dtype: torch.dtype) -> None:
    """A penalty of 0.02 makes the first of the twins the second; 0.005 does not."""
    engine, _, _ = write_tiny_engine(tmp_path)
    make_twins(engine)
    logits = ranks_of(engine, dtype).forward(Prefill(0, 0, PROMPT))
    assert logits is not None

    def chosen(penalty: float) -> int:
        asked = Sampling(max_tokens=4, presence_penalty=penalty)
        return Sampler(asked, [1, 6], end_ids=()).pick(logits[0])[0]

    assert (chosen(0.02), chosen(0.005)) == (5, 6)
