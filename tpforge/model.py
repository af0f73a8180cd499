"""What a decoder-only model is, independent of where its weights lie.

It does not know file formats or tensor names: `builders` turns a checkpoint into a ModelSpec.
"""

from __future__ import annotations

from typing import Any

from tpforge.dtypes import DType
from tpforge.records import Record


class RopeSpec(Record):
    """Rotary position embedding.

    `scaling` is the Hugging Face dictionary (`rope_type`, `factor`, ...), or None.
    """

    base: float
    scaling: dict[str, Any] | None = None
    partial_factor: float = 1.0


class AttentionSpec(Record):
    """Self-attention of one layer; sizes are of the whole model, unpadded."""

    num_heads: int
    num_kv_heads: int
    head_size: int
    bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None


class MlpSpec(Record):
    """The gated feed-forward block of one layer; `intermediate_size` is unpadded."""

    intermediate_size: int
    activation: str
    bias: bool = False


class NormSpec(Record):
    """The normalization of a layer."""

    epsilon: float
    kind: str = "rmsnorm"


class SpecialTokens(Record):
    """Ids the runtime needs; the first of `end_ids` is the default `end_id`."""

    begin_id: int | None = None
    end_ids: tuple[int, ...] = ()
    pad_id: int | None = None


class ModelSpec(Record):
    """A model as its config declares it: unpadded, unsharded."""

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    max_position_embeddings: int
    dtype: DType
    tie_word_embeddings: bool
    attention: AttentionSpec
    mlp: MlpSpec
    rope: RopeSpec
    norm: NormSpec
    special_tokens: SpecialTokens = SpecialTokens()
