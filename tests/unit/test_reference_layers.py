"""Rotary embedding and norm of the reference runtime against transformers' own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import (
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from engines.reference import EngineError
from engines.reference.layers import rms_norm, rotary_tables, rotate

HEAD_SIZE = 32
SCALINGS: list[dict[str, Any] | None] = [
    None,
    {"rope_type": "linear", "factor": 4.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
]


def config(scaling: dict[str, Any] | None) -> Any:
    return SimpleNamespace(
        rotary_base=10000.0, rotary_dim=HEAD_SIZE, rotary_scaling=scaling, max_position_embeddings=256
    )


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: (scaling or {}).get("rope_type", "default"))
def test_rotation_equals_transformers(scaling: dict[str, Any] | None) -> None:
    parameters = {"rope_type": "default", "rope_theta": 10000.0, **(scaling or {})}
    theirs = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=4 * HEAD_SIZE,
            num_attention_heads=4,
            head_dim=HEAD_SIZE,
            max_position_embeddings=256,
            rope_parameters=parameters,
        )
    )
    heads = torch.randn(200, 4, HEAD_SIZE, generator=torch.Generator().manual_seed(1))
    cosine, sine = theirs(heads[None].transpose(1, 2), torch.arange(200)[None])
    expected, _ = apply_rotary_pos_emb(heads.transpose(0, 1)[None], heads.transpose(0, 1)[None], cosine, sine)
    our_cosine, our_sine = rotary_tables(config(scaling), num_positions=200)
    found = rotate(heads, our_cosine[:, None], our_sine[:, None])
    torch.testing.assert_close(found, expected[0].transpose(0, 1), atol=2e-5, rtol=0)


def test_partial_rotation_keeps_the_dims_past_it() -> None:
    heads = torch.randn(5, 2, HEAD_SIZE)
    half = SimpleNamespace(**{**vars(config(None)), "rotary_dim": HEAD_SIZE // 2})
    cosine, sine = rotary_tables(half, num_positions=5)
    found = rotate(heads, cosine[:, None], sine[:, None])
    assert torch.equal(found[..., HEAD_SIZE // 2 :], heads[..., HEAD_SIZE // 2 :])
    assert not torch.allclose(found[1:, :, : HEAD_SIZE // 2], heads[1:, :, : HEAD_SIZE // 2])


def test_an_unknown_rope_scaling_is_refused_by_name() -> None:
    with pytest.raises(EngineError, match="longrope"):
        rotary_tables(config({"rope_type": "longrope"}), num_positions=4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_equals_transformers(dtype: torch.dtype) -> None:
    hidden = torch.randn(7, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
    theirs = LlamaRMSNorm(64, eps=1e-5).to(dtype)
    with torch.no_grad():
        theirs.weight.copy_(torch.linspace(0.5, 1.5, 64))
        torch.testing.assert_close(
            rms_norm(hidden, theirs.weight, 1e-5), theirs(hidden), atol=1e-6, rtol=1e-6
        )
