"""Rotary embedding and norm of the reference runtime against transformers' own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from engines.reference.fields import LongRope
from engines.reference.layers.norms import RmsNorm
from engines.reference.layers.rotary import Rope, RotaryTable, Rows, rotate, rotate_pairs
from engines.reference.places import alibi_slopes

HEAD_SIZE = 32
TRAINED = 64
SCALINGS: list[dict[str, Any] | None] = [
    None,
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "truncate": False},
    {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 32,
        "mscale": 0.7,
        "mscale_all_dim": 0.4,
        "beta_fast": 16,
    },
]


def table(rope: Rope, *, num_positions: int = 200) -> RotaryTable:
    return RotaryTable(rope, num_positions=num_positions, device=torch.device("cpu"), dtype=torch.float32)


def transformers_rotation(heads: torch.Tensor, parameters: dict[str, Any]) -> torch.Tensor:
    """Llama's rotation of [tokens, heads, HEAD_SIZE] at positions 0, 1, ..."""
    rope = LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=4 * HEAD_SIZE,
            num_attention_heads=4,
            head_dim=HEAD_SIZE,
            max_position_embeddings=TRAINED,
            rope_parameters={"rope_type": "default", "rope_theta": 10000.0, **parameters},
        )
    )
    cosine, sine = rope(heads[None].transpose(1, 2), torch.arange(len(heads))[None])
    turned, _ = apply_rotary_pos_emb(heads.transpose(0, 1)[None], heads.transpose(0, 1)[None], cosine, sine)
    found: torch.Tensor = turned[0].transpose(0, 1)
    return found


def random_heads(num_tokens: int) -> torch.Tensor:
    return torch.randn(num_tokens, 4, HEAD_SIZE, generator=torch.Generator().manual_seed(1))


def prompt_rows(rope: Rope, num_tokens: int) -> Rows:
    return table(rope).rows(torch.arange(num_tokens), length=num_tokens)


@pytest.mark.parametrize("num_tokens", [50, 150])
@pytest.mark.parametrize("scaling", SCALINGS, ids=str)
def test_rotation_equals_transformers(scaling: dict[str, Any] | None, num_tokens: int) -> None:
    heads = random_heads(num_tokens)
    rope = Rope(base=10000.0, dim=HEAD_SIZE, trained_length=TRAINED, scaling=scaling)
    found = rotate(heads, *prompt_rows(rope, num_tokens))
    torch.testing.assert_close(found, transformers_rotation(heads, scaling or {}), atol=2e-5, rtol=0)


@pytest.mark.parametrize("num_tokens", [50, 150])
def test_long_rope_equals_transformers_below_and_above_its_original_length(num_tokens: int) -> None:
    short, long = [1.0 + 0.1 * i for i in range(16)], [2.0 + 0.5 * i for i in range(16)]
    heads = random_heads(num_tokens)
    longrope = LongRope(tuple(short), tuple(long), original_length=TRAINED, short_scale=1.3, long_scale=1.3)
    rope = Rope(base=10000.0, dim=HEAD_SIZE, trained_length=256, longrope=longrope)
    expected = transformers_rotation(
        heads,
        {
            "rope_type": "longrope",
            "short_factor": short,
            "long_factor": long,
            "attention_factor": 1.3,
            "original_max_position_embeddings": TRAINED,
        },
    )
    torch.testing.assert_close(rotate(heads, *prompt_rows(rope, num_tokens)), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("scaling", [SCALINGS[2]])
def test_generated_tokens_past_the_trained_length_take_frequencies_of_their_own(
    scaling: dict[str, Any],
) -> None:
    rope = Rope(base=10000.0, dim=HEAD_SIZE, trained_length=TRAINED, scaling=scaling)
    heads = random_heads(100)
    cosine, sine = table(rope).rows(torch.tensor([99, 20]), length=None)
    found = rotate(heads[[99, 20]], cosine, sine)
    grown = transformers_rotation(heads, scaling)[99]
    as_trained = transformers_rotation(heads[:21], scaling)[20]
    torch.testing.assert_close(found, torch.stack((grown, as_trained)), atol=2e-5, rtol=0)


def test_pairs_turn_as_halves_do_after_reordering() -> None:
    rope = Rope(base=10000.0, dim=HEAD_SIZE, trained_length=TRAINED)
    pairs = replace(rope, interleaved=True)
    heads = random_heads(9)
    order = torch.cat((torch.arange(0, HEAD_SIZE, 2), torch.arange(1, HEAD_SIZE, 2)))
    expected = rotate(heads[..., order], *prompt_rows(rope, 9))
    assert torch.equal(rotate_pairs(heads, *prompt_rows(pairs, 9))[..., order], expected)


@pytest.mark.parametrize("turn", [rotate, rotate_pairs])
def test_partial_rotation_keeps_the_dims_past_it(turn: Callable[..., torch.Tensor]) -> None:
    heads = random_heads(5)
    half = Rope(base=1e4, dim=HEAD_SIZE // 2, trained_length=TRAINED, interleaved=turn is rotate_pairs)
    found = turn(heads, *prompt_rows(half, 5))
    assert torch.equal(found[..., HEAD_SIZE // 2 :], heads[..., HEAD_SIZE // 2 :])
    assert not torch.allclose(found[1:, :, : HEAD_SIZE // 2], heads[1:, :, : HEAD_SIZE // 2])


def test_an_unknown_rope_scaling_is_refused_by_name() -> None:
    with pytest.raises(EngineError, match="ntk-by-parts"):
        table(Rope(base=1e4, dim=8, trained_length=4, scaling={"rope_type": "ntk-by-parts"}))


@pytest.mark.parametrize("num_heads", [8, 6, 12, 1])
def test_alibi_slopes_equal_transformers(num_heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    mask = torch.ones(1, 3)
    theirs = build_alibi_tensor(mask, num_heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(alibi_slopes(num_heads), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_equals_transformers(dtype: torch.dtype) -> None:
    hidden = torch.randn(7, 64, generator=torch.Generator().manual_seed(2)).to(dtype)
    theirs = LlamaRMSNorm(64, eps=1e-5).to(dtype)
    with torch.no_grad():
        theirs.weight.copy_(torch.linspace(0.5, 1.5, 64))
        torch.testing.assert_close(RmsNorm(theirs.weight, 1e-5)(hidden), theirs(hidden), atol=1e-6, rtol=1e-6)
