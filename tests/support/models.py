"""Small ModelSpecs for tests that need no weights."""

from tpforge.dtypes import DType
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, NormSpec, RopeSpec


def model_of(
    *,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    head_size: int = 2,
    hidden_size: int = 8,
    intermediate_size: int = 16,
    vocab_size: int = 10,
    num_layers: int = 2,
) -> ModelSpec:
    """A llama of these sizes."""
    return ModelSpec(
        architecture="LlamaForCausalLM",
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        max_position_embeddings=64,
        dtype=DType.FLOAT32,
        tie_word_embeddings=False,
        attention=AttentionSpec(num_heads=num_heads, num_kv_heads=num_kv_heads, head_size=head_size),
        mlp=MlpSpec(intermediate_size=intermediate_size, activation="silu"),
        rope=RopeSpec(base=10000.0),
        norm=NormSpec(epsilon=1e-5),
    )
