"""Cosines and sines at far positions, bit for bit those of transformers' own rope functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Phi3Config
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from engines.reference.fields import LongRope
from engines.reference.layers.rotary import Rope, RotaryTable

LENGTH, TRAINED, ORIGINAL, DIM = 131_072, 120_000, 32_768, 32
PLACES = [0, 1, 8191, 8192, ORIGINAL - 1, ORIGINAL, ORIGINAL + 1, TRAINED - 1, TRAINED, LENGTH - 1]
SCALINGS: dict[str, dict[str, Any] | None] = {
    "default": None,
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "yarn": {"rope_type": "yarn", "factor": 40.0, "original_max_position_embeddings": ORIGINAL},
    "yarn, not truncated": {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
        "truncate": False,
        "beta_fast": 16.0,
        "attention_factor": 1.5,
    },
}
SIZES = {"hidden_size": DIM, "num_attention_heads": 1, "max_position_embeddings": TRAINED}


def rows(rope: Rope) -> tuple[torch.Tensor, torch.Tensor]:
    table = RotaryTable(rope, num_positions=LENGTH, device=torch.device("cpu"), dtype=torch.float32)
    cosine, signed = table.rows(torch.tensor(PLACES), length=LENGTH)
    sine = torch.cat((-signed[..., : DIM // 2], signed[..., DIM // 2 :]), -1)
    return cosine[:, 0], sine[:, 0]


@pytest.mark.parametrize("base", [10_000.0, 500_000.0, 1e6])
@pytest.mark.parametrize("kind", SCALINGS)
def test_far_positions_are_turned_as_transformers_turns_them(kind: str, base: float) -> None:
    scaling = SCALINGS[kind]
    parameters = {**(scaling or {"rope_type": "default"}), "rope_theta": base}
    truth = LlamaRotaryEmbedding(LlamaConfig(**SIZES, rope_parameters=parameters))
    cosine, sine = truth(torch.zeros(1), torch.tensor([PLACES]))
    found = rows(Rope(base, DIM, TRAINED, scaling))
    assert torch.equal(found[0], cosine[0]) and torch.equal(found[1], sine[0])


@pytest.mark.parametrize("original", [ORIGINAL, LENGTH])
def test_a_long_rope_takes_the_factors_of_the_length(original: int) -> None:
    short = [1.0 + pair / 50 for pair in range(DIM // 2)]
    long = [4.0 + pair for pair in range(DIM // 2)]
    parameters = {"rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": short, "long_factor": long}
    parameters |= {"original_max_position_embeddings": original, "attention_factor": 1.25}
    truth = Phi3RotaryEmbedding(
        Phi3Config(**SIZES, original_max_position_embeddings=original, rope_parameters=parameters)
    )
    cosine, sine = truth(torch.zeros(1), torch.tensor([PLACES]))
    longrope = LongRope(tuple(short), tuple(long), original, 1.25, 1.25)
    found = rows(Rope(10_000.0, DIM, TRAINED, longrope=longrope))
    assert torch.equal(found[0], cosine[0]) and torch.equal(found[1], sine[0])
