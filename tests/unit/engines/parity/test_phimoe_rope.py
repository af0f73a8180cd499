"""The truth of Phi-3.5-MoE's long rope: past the original length its long factors and its long scale.

The judge is transformers 5 itself with a config whose short factors are the long ones: it takes those always.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from engines.parity.transformers_model import load_transformers
from engines.reference import load_config, open_executor
from engines.reference.batches import Logits, Prefill
from tests.support.families.configs import FamilyCase, tiny_config, tiny_model
from tests.support.tiny_engine import write_engine_of
from tpforge.manifest import Limits
from tpforge.shards.mapping import Mapping

ORIGINAL = 32
TOKENS = tuple(3 + (5 * place * place + 7 * place) % 120 for place in range(100))
SHORT, LONG = [1.0 + 0.1 * pair for pair in range(4)], [2.0 + 0.3 * pair for pair in range(4)]


def case(**rope: Any) -> FamilyCase:
    return FamilyCase(
        "phimoe, long rope",
        "phimoe",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "attention_bias": True,
            "lm_head_bias": True,
            "router_jitter_noise": 0.01,
            "original_max_position_embeddings": ORIGINAL,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": SHORT,
                "long_factor": LONG,
                "short_mscale": 1.25,
                "long_mscale": 1.5,
                "original_max_position_embeddings": ORIGINAL,
                **rope,
            },
        },
    )


def test_long_prompts_have_the_long_factors_and_short_ones_the_short(tmp_path: Path) -> None:
    tiny_model(case()).save_pretrained(tmp_path / "source")
    limits = Limits(max_batch_size=1, max_input_len=112, max_seq_len=128)
    engine, manifest = write_engine_of(
        tmp_path / "source", tmp_path / "engine", mapping=Mapping(), limits=limits
    )
    executor = open_executor(
        load_config(engine), kind="lockstep", device="cpu", compute_dtype="float32", num_slots=1
    )
    truth = load_transformers(tmp_path / "source", manifest)
    swapped = tiny_model(case(), config=tiny_config(case(short_factor=LONG, short_mscale=1.5)))
    plain = tiny_model(case())
    for length, judge in ((ORIGINAL, plain), (ORIGINAL + 1, swapped), (len(TOKENS), swapped), (20, plain)):
        tokens = TOKENS[:length]
        with torch.inference_mode():
            expected, found = (model(torch.tensor([tokens])).logits[0] for model in (judge, truth))
        scale = float(expected.abs().max())
        assert float((found - expected).abs().max()) / scale < 1e-6, length
        ours = executor.forward(Prefill(0, 0, tokens, Logits.ALL))
        assert ours is not None
        assert float((ours - expected).abs().max()) / scale < 2e-5, length
