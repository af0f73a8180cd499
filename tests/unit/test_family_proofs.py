"""Every family: its shards hold the source bit for bit, and the ranks compute what transformers computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from builders.sources import open_source
from builders.verify import verify_shards
from engines.reference import load_config, open_executor
from engines.reference.batches import Decode, Logits, Prefill
from tests.families import CASES, FamilyCase, write_tiny_family
from tests.tiny_engine import write_engine_of
from tpforge.mapping import Mapping
from tpforge.sharding import ShardPlan

TOKENS = tuple(3 + (5 * i * i + 7 * i) % 120 for i in range(24))


def mappings(case: FamilyCase) -> list[Mapping]:
    """tp 1, 2, 4, uneven pipeline stages, padding where it is exact, and experts divided."""
    sizes = [Mapping(tp_size=tp) for tp in (1, 2, 4)] + [Mapping(tp_size=2, pp_size=2)]
    if case.pads:
        sizes.append(Mapping(tp_size=3))
    if case.moe_ep is not None:
        sizes += [
            Mapping(tp_size=4, moe_ep_size=case.moe_ep),
            Mapping(tp_size=case.moe_ep, moe_ep_size=case.moe_ep),
        ]
    return sizes


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ranks_compute_what_transformers_computes(tmp_path: Path, case: FamilyCase) -> None:
    truth_model = write_tiny_family(tmp_path / "source", case)
    with torch.inference_mode():
        truth = truth_model(torch.tensor([TOKENS])).logits[0].float()
    for mapping in mappings(case):
        name = f"tp{mapping.tp_size}-pp{mapping.pp_size}-ep{mapping.moe_ep_size}"
        engine, manifest = write_engine_of(tmp_path / "source", tmp_path / name, mapping=mapping)
        with open_source(str(tmp_path / "source")) as source:
            plan = ShardPlan(source.spec, mapping, manifest.padding)
            report = verify_shards(source, engine / "checkpoint", plan=plan, dtype=manifest.dtype)
        assert report.problems == (), name
        executor = open_executor(
            load_config(engine), kind="lockstep", device="cpu", compute_dtype="float32", num_slots=1
        )
        whole = executor.forward(Prefill(0, 0, TOKENS, Logits.ALL))
        assert whole is not None
        limit = case.tolerance * float(truth.abs().max())
        assert float((whole - truth).abs().max()) < limit, name
        executor.forward(Prefill(0, 0, TOKENS[:-2], Logits.NONE))
        for place in (len(TOKENS) - 2, len(TOKENS) - 1):
            step = executor.forward(Decode((TOKENS[place],), (place,)))
            assert step is not None
            assert float((step[0] - truth[place]).abs().max()) < limit, f"{name}, decoding position {place}"
