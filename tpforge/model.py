"""What a decoder-only model is, independent of where its weights lie.

It does not know file formats or tensor names: `builders` turns a checkpoint into a ModelSpec.
"""

from __future__ import annotations

from typing import Any, Literal

from tpforge.dtypes import DType
from tpforge.records import Record

PositionKind = Literal["rope_gpt_neox", "rope_gptj", "learned_absolute", "alibi", "alibi_with_scale"]


class RopeSpec(Record):
    """Rotary position embedding.

    `scaling` is the Hugging Face dictionary (`rope_type`, `factor`, ...), or None. `local_base` is the
    base of the layers with a sliding window, where it differs (Gemma 3).
    """

    base: float
    scaling: dict[str, Any] | None = None
    partial_factor: float = 1.0
    local_base: float | None = None


class LatentSpec(Record):
    """Multi-head latent attention: keys and values of all heads come from one cached latent vector.

    The cache of a token and layer holds kv_lora_rank + qk_rope_head_size values, whatever tp_size.
    Source: DeepSeek-V2, section 2.1; names as in its config.json.
    """

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_size: int
    qk_rope_head_size: int
    v_head_size: int


class AttentionSpec(Record):
    """Self-attention; sizes are of the whole model, unpadded.

    `sliding_layers` says of each layer whether `sliding_window` holds there; None means every layer.
    `scale` multiplies the scores, None stands for 1 / sqrt(head_size). `head_size` is that of queries and
    keys; `latent`, when given, has the sizes of the values. `clip_qkv` bounds queries, keys and values;
    `alibi_bias_max` is the exponent of ALiBi's steepest slopes, for models that have it.
    """

    num_heads: int
    num_kv_heads: int
    head_size: int
    bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    sliding_layers: tuple[bool, ...] | None = None
    logit_softcap: float | None = None
    scale: float | None = None
    clip_qkv: float | None = None
    alibi_bias_max: int = 8
    latent: LatentSpec | None = None


class MlpSpec(Record):
    """The dense feed-forward block of a layer; `intermediate_size` is unpadded.

    `gated` blocks have three matrices (gate, up, down), the others two.
    """

    intermediate_size: int
    activation: str
    bias: bool = False
    gated: bool = True


class MoeSpec(Record):
    """Mixture of experts in place of the dense block.

    `intermediate_size` is that of one expert; `shared_intermediate_size` is 0 without shared experts.
    `layers` says of each layer whether it has experts (the others have the dense block); None: every layer.
    `normalize` divides the weights of the chosen experts by their sum. Groups are DeepSeek's.
    """

    num_experts: int
    top_k: int
    intermediate_size: int
    shared_intermediate_size: int = 0
    shared_gate: bool = False
    normalize: bool = True
    scoring: Literal["softmax", "sigmoid", "sparsemixer"] = "softmax"
    num_groups: int = 1
    top_groups: int = 1
    routed_scaling: float = 1.0
    layers: tuple[bool, ...] | None = None


class NormSpec(Record):
    """The normalization of a layer; `count` norms stand before its two blocks."""

    epsilon: float
    kind: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    bias: bool = False
    count: int = 2


class SpecialTokens(Record):
    """Ids the runtime needs; the first of `end_ids` is the default `end_id`."""

    begin_id: int | None = None
    end_ids: tuple[int, ...] = ()
    pad_id: int | None = None


class MultiplierSpec(Record):
    """Constant factors on the embedding, the output of each block, and the logits (Granite, Cohere)."""

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0


class ModelSpec(Record):
    """A model as its config declares it: unpadded, unsharded. `rope` is None for other positions.

    `unit_lm_head`: the rows of the LM head are scaled to a length of one before they are used (Baichuan 2).
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    max_position_embeddings: int
    dtype: DType
    tie_word_embeddings: bool
    attention: AttentionSpec
    mlp: MlpSpec
    rope: RopeSpec | None
    norm: NormSpec
    moe: MoeSpec | None = None
    position: PositionKind = "rope_gpt_neox"
    parallel_residual: bool = False
    lm_head_bias: bool = False
    unit_lm_head: bool = False
    logit_softcap: float | None = None
    multipliers: MultiplierSpec = MultiplierSpec()
    special_tokens: SpecialTokens = SpecialTokens()

    def has_experts(self, layer: int) -> bool:
        """Whether `layer` has experts in place of the dense block."""
        if self.moe is None:
            return False
        return self.moe.layers is None or self.moe.layers[layer]

    def window(self, layer: int) -> int | None:
        """The sliding window of `layer` in tokens, or None when it sees everything."""
        sliding = self.attention.sliding_layers
        return self.attention.sliding_window if sliding is None or sliding[layer] else None

    def repeated_windows(self, *, longest: int) -> list[int]:
        """The windows of the first layers, in tokens, that the others repeat in their order.

        Layers that see everything have `longest`, the tokens of the longest request; none where no window
        is shorter than that.
        """
        each = [min(self.window(layer) or longest, longest) for layer in range(self.num_layers)]
        if min(each) >= longest:
            return []
        sizes = range(1, len(each) + 1)
        return next(each[:size] for size in sizes if each == [each[at % size] for at in range(len(each))])
