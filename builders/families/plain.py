"""What descendants of GPT share: layer norms with biases, an MLP without a gate, a KV head for each head.

It holds no table; each family says under which keys its config.json has the sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

from builders.families.llama import MAX_LAYERS
from builders.families.reading import ConfigReader
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, NormSpec


@dataclass(frozen=True)
class Keys:
    """The keys of config.json that hold a size; of several the first that is there.

    Without `width` the MLP is as wide as the default says, whatever config.json holds.
    """

    hidden: tuple[str, ...] = ("hidden_size",)
    heads: tuple[str, ...] = ("num_attention_heads",)
    layers: tuple[str, ...] = ("num_hidden_layers",)
    length: str = "max_position_embeddings"
    width: str | None = "intermediate_size"
    activation: str = "hidden_act"
    epsilon: str = "layer_norm_epsilon"


GPT_KEYS = Keys(
    hidden=("n_embd",),
    heads=("n_head",),
    layers=("n_layer",),
    length="n_positions",
    width="n_inner",
    activation="activation_function",
)


def read_plain(
    config: ConfigReader,
    keys: Keys,
    *,
    activations: tuple[str, ...],
    default_length: int | None = None,
    default_width: int | None = None,
    default_tied: bool = False,
    bias: bool = True,
) -> ModelSpec:
    """A model with learned positions; the caller changes what is otherwise and checks `config` when done.

    `default_width` is in multiples of hidden_size; the first of `activations` is the default.
    """
    config.refuse_quantized()
    hidden_key, heads_key = config.first(keys.hidden), config.first(keys.heads)
    hidden_size, num_heads = config.integer(hidden_key), config.integer(heads_key)
    if hidden_size % num_heads:
        config.problem(f"{hidden_key} {hidden_size} is not a multiple of {heads_key} {num_heads}")
    vocab_size = config.integer("vocab_size")
    return ModelSpec(
        architecture=config.architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=config.integer(config.first(keys.layers), maximum=MAX_LAYERS),
        max_position_embeddings=config.integer(keys.length, default=default_length),
        dtype=config.dtype(),
        tie_word_embeddings=config.flag("tie_word_embeddings", default=default_tied),
        attention=AttentionSpec(
            num_heads=num_heads,
            num_kv_heads=num_heads,
            head_size=max(1, hidden_size // num_heads),
            bias=bias,
            output_bias=bias,
        ),
        mlp=MlpSpec(
            intermediate_size=_width(
                config, keys.width, default=default_width and default_width * hidden_size
            ),
            activation=config.choice(keys.activation, known=activations, default=activations[0]),
            bias=bias,
            gated=False,
        ),
        rope=None,
        position="learned_absolute",
        norm=NormSpec(epsilon=config.number(keys.epsilon, default=1e-5), kind="layernorm", bias=True),
        special_tokens=config.special_tokens(vocab_size=vocab_size),
    )


def _width(config: ConfigReader, key: str | None, *, default: int | None) -> int:
    if key is not None:
        return config.integer(key, default=default)
    assert default is not None, "a family whose config.json holds no width has one by default"
    return default


def with_attention(model: ModelSpec, **changes: object) -> ModelSpec:
    """`model` with some fields of its attention replaced."""
    return model.model_copy(update={"attention": model.attention.model_copy(update=changes)})
