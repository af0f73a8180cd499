"""ALiBi as Falcon has it: biases in bfloat16 by the keys' positions, which long prompts and odd slopes show.

The judge is transformers: its biases, and its logits of prompts past where bfloat16 counts whole numbers.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers.models.falcon.modeling_falcon import build_alibi_tensor

from engines.reference import load_config, open_executor
from engines.reference.batches import Decode, Logits, Prefill
from engines.reference.places import Alibi, alibi_slopes
from tests.support.families.configs import FamilyCase, write_tiny_family
from tests.support.tiny_engine import write_engine_of
from tpforge.manifest import Limits
from tpforge.shards.mapping import Mapping

LENGTH = 400
TOKENS = tuple(3 + (5 * place * place + 7 * place) % 120 for place in range(LENGTH))
FALCON = {
    "alibi": True,
    "bias": True,
    "multi_query": False,
    "parallel_attn": False,
    "new_decoder_architecture": False,
    "tie_word_embeddings": True,
    "ffn_hidden_size": 96,
    "max_position_embeddings": 2 * LENGTH,
}


@pytest.mark.parametrize("num_heads", [8, 12, 32])
def test_rounded_biases_are_those_of_transformers_but_for_one_number_a_row(num_heads: int) -> None:
    theirs = build_alibi_tensor(torch.ones(1, LENGTH, dtype=torch.long), num_heads, torch.float32)[:, 0]
    places = torch.arange(LENGTH)
    found = Alibi(alibi_slopes(num_heads), 0.25, is_rounded=True).biases(places, places)
    expected = 0.25 * (theirs[:, None, :] - theirs[:, :, None])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    # Where nothing is rounded, a bias is the distance's: the two differ past 256, or with odd slopes at once.
    plain = Alibi(alibi_slopes(num_heads), 0.25, is_rounded=False).biases(places, places)
    early = (plain - found)[:, :200, :200].abs().max()
    assert float((plain - found).abs().max()) > 0.05
    assert float(early) == pytest.approx(0, abs=1e-5) if num_heads == 8 else float(early) > 0.01


@pytest.mark.parametrize("num_heads", [8, 12])
def test_falcon_with_alibi_computes_what_transformers_computes_of_long_prompts(
    tmp_path: Path, num_heads: int
) -> None:
    sizes = {"num_attention_heads": num_heads, "num_kv_heads": num_heads, "hidden_size": 8 * num_heads}
    model = write_tiny_family(tmp_path / "source", FamilyCase("falcon", "falcon", {**FALCON, **sizes}))
    with torch.inference_mode():
        truth = model(torch.tensor([TOKENS])).logits[0].float()
    limits = Limits(max_batch_size=1, max_input_len=LENGTH, max_seq_len=LENGTH + 8)
    for tp_size in (1, 2):
        engine, _ = write_engine_of(
            tmp_path / "source", tmp_path / f"tp{tp_size}", mapping=Mapping(tp_size=tp_size), limits=limits
        )
        executor = open_executor(
            load_config(engine), kind="lockstep", device="cpu", compute_dtype="float32", num_slots=1
        )
        whole = executor.forward(Prefill(0, 0, TOKENS, Logits.ALL))
        assert whole is not None
        assert float((whole - truth).abs().max() / truth.abs().max()) < 2e-5
        executor.forward(Prefill(0, 0, TOKENS[:-1], Logits.NONE))
        last = executor.forward(Decode((TOKENS[-1],), (LENGTH - 1,)))
        assert last is not None
        assert float((last[0] - truth[-1]).abs().max() / truth.abs().max()) < 2e-5
