"""How far the ranks of a tiny family are from transformers, for every mapping of its case.

It judges nothing: tests do, and `record` writes the figures down for docs/families.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from engines.reference import load_config, open_executor
from engines.reference.batches import Decode, Logits, Prefill
from tests.support.families.configs import FamilyCase, write_tiny_family
from tests.support.tiny_engine import write_engine_of
from tpforge.manifest import Limits
from tpforge.shards.mapping import Mapping

TOKENS = tuple(3 + (5 * i * i + 7 * i) % 120 for i in range(24))
_DECODED = (len(TOKENS) - 2, len(TOKENS) - 1)


@dataclass(frozen=True)
class Proof:
    """The largest difference of a logit, as a share of the largest logit: of a prompt, and decoding."""

    mapping: Mapping
    prompt_error: float
    decode_error: float


def prove(case: FamilyCase, folder: Path, *, device: str = "cpu") -> Iterator[Proof]:
    """Write the case's checkpoint, convert it for each of its mappings, and execute the ranks in float32."""
    model = write_tiny_family(folder / "source", case)
    with torch.inference_mode():
        truth = model(torch.tensor([TOKENS])).logits[0].float()
    scale = float(truth.abs().max())
    for mapping in case.mappings():
        name = f"tp{mapping.tp_size}-pp{mapping.pp_size}-ep{mapping.moe_ep_size}"
        limits = Limits(max_batch_size=1, max_input_len=32, max_seq_len=64)
        engine, _ = write_engine_of(folder / "source", folder / name, mapping=mapping, limits=limits)
        executor = open_executor(
            load_config(engine), kind="lockstep", device=device, compute_dtype="float32", num_slots=1
        )
        whole = executor.forward(Prefill(0, 0, TOKENS, Logits.ALL))
        assert whole is not None
        executor.forward(Prefill(0, 0, TOKENS[:-2], Logits.NONE))
        decode_error = 0.0
        for place in _DECODED:
            step = executor.forward(Decode((TOKENS[place],), (place,)))
            assert step is not None
            decode_error = max(decode_error, float((step[0] - truth[place]).abs().max()))
        yield Proof(mapping, float((whole - truth).abs().max()) / scale, decode_error / scale)
