"""What descendants of GPT share: layer norms with biases, an MLP without a gate, a KV head for each head.

It holds no table; each family says under which keys its config.json has the sizes.
"""

from __future__ import annotations

from dataclasses import dataclass

from builders.families.common.reading import ConfigReader
from builders.families.llama import MAX_LAYERS
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, NormSpec


@dataclass(frozen=True)
class Keys:
    """The keys of config.json that hold a size.

    Without `width` the MLP is as wide as the default says, whatever config.json holds.
    """

    hidden: str = "hidden_size"
    heads: str = "num_attention_heads"
    layers: str = "num_hidden_layers"
    length: str = "max_position_embeddings"
    width: str | None = "intermediate_size"
    activation: str | None = "hidden_act"
    epsilon: str | None = "layer_norm_epsilon"

    @property
    def reads(self) -> tuple[str, ...]:
        """All of them, for the family's `ConfigKeys`."""
        held = (self.hidden, self.heads, self.layers, self.length, self.width, self.activation, self.epsilon)
        return ("head_dim", "vocab_size", *(key for key in held if key is not None))


GPT_KEYS = Keys(
    hidden="n_embd",
    heads="n_head",
    layers="n_layer",
    length="n_positions",
    width="n_inner",
    activation="activation_function",
)


def read_plain(
    config: ConfigReader,
    keys: Keys,
    *,
    activations: tuple[str, ...],
    default_width: int | None = None,
    bias: bool = True,
) -> ModelSpec:
    """A model with learned positions; the caller changes what is otherwise and checks `config` when done.

    `default_width` is in multiples of hidden_size.
    """
    config.refuse_quantized()
    hidden_size, num_heads = config.integer(keys.hidden), config.integer(keys.heads)
    if hidden_size % num_heads:
        config.problem(f"{keys.hidden} {hidden_size} is not a multiple of {keys.heads} {num_heads}")
    derived = f"expected {keys.hidden} / {keys.heads}"
    config.require("head_dim", expected=(hidden_size // num_heads,), why=derived)
    vocab_size = config.integer("vocab_size")
    return ModelSpec(
        architecture=config.architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=config.integer(keys.layers, maximum=MAX_LAYERS),
        max_position_embeddings=config.integer(keys.length),
        dtype=config.dtype(),
        tie_word_embeddings=config.flag("tie_word_embeddings"),
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
            activation=_activation(config, keys.activation, known=activations),
            bias=bias,
            gated=False,
        ),
        rope=None,
        position="learned_absolute",
        norm=NormSpec(epsilon=_epsilon(config, keys.epsilon), kind="layernorm", bias=True),
        special_tokens=config.special_tokens(vocab_size=vocab_size),
    )


def _activation(config: ConfigReader, key: str | None, *, known: tuple[str, ...]) -> str:
    return known[0] if key is None else config.choice(key, known=known)


def _epsilon(config: ConfigReader, key: str | None) -> float:
    """That of torch.nn.LayerNorm, where config.json has no key for it."""
    return 1e-5 if key is None else config.number(key)


def _width(config: ConfigReader, key: str | None, *, default: int | None) -> int:
    if key is not None:
        return config.integer(key, default=default)
    assert default is not None, "a family whose config.json holds no width has one by default"
    return default


def with_attention(model: ModelSpec, **changes: object) -> ModelSpec:
    """`model` with some fields of its attention replaced."""
    return model.model_copy(update={"attention": model.attention.model_copy(update=changes)})
