"""Every family: its ranks compute what transformers computes, however they are divided."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engines.reference import load_config, open_executor
from engines.reference.batches import Decode, Logits, Prefill
from tests.families import FamilyCase, write_tiny_family
from tests.family_cases import CASES
from tests.tiny_engine import write_engine_of
from tpforge.manifest import Limits

TOKENS = tuple(3 + (5 * i * i + 7 * i) % 120 for i in range(24))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ranks_compute_what_transformers_computes(tmp_path: Path, case: FamilyCase) -> None:
    truth_model = write_tiny_family(tmp_path / "source", case)
    with torch.inference_mode():
        truth = truth_model(torch.tensor([TOKENS])).logits[0].float()
    limit = case.tolerance * float(truth.abs().max())
    for mapping in case.mappings():
        name = f"tp{mapping.tp_size}-pp{mapping.pp_size}-ep{mapping.moe_ep_size}"
        limits = Limits(max_batch_size=1, max_input_len=32, max_seq_len=64)
        engine, _ = write_engine_of(tmp_path / "source", tmp_path / name, mapping=mapping, limits=limits)
        executor = open_executor(
            load_config(engine), kind="lockstep", device="cpu", compute_dtype="float32", num_slots=1
        )
        whole = executor.forward(Prefill(0, 0, TOKENS, Logits.ALL))
        assert whole is not None
        assert float((whole - truth).abs().max()) < limit, name
        executor.forward(Prefill(0, 0, TOKENS[:-2], Logits.NONE))
        for place in (len(TOKENS) - 2, len(TOKENS) - 1):
            step = executor.forward(Decode((TOKENS[place],), (place,)))
            assert step is not None
            assert float((step[0] - truth[place]).abs().max()) < limit, f"{name}, decoding position {place}"
