"""Which keys of config.json a family reads, which are without effect, and what an absent one means.

It reads no values; `reading` does. A key that the model's class has and that is in neither list is refused by
name, unless it says what the class takes anyway: nothing that decides the computation is passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from builders.families.config_classes import ConfigClass, config_class, is_known, model_types

SHARED_READS = (
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "pad_token_id",
    "quantization_config",
    "tie_word_embeddings",
)
"""What is read for every family."""

_SHARED_REFUSED: dict[str, Any] = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    # No class has it, but the masks of every model ask for it.
    "is_causal": True,
    "is_encoder_decoder": False,
    "pruned_heads": {},
    "tie_encoder_decoder": False,
}
"""What would make another model of any class; its other shared keys are of training and of generate()."""

INERT = (
    "attention_dropout",
    "attn_dropout_prob",
    "attn_pdrop",
    "aux_loss_alpha",
    "bf16",
    "classifier_dropout",
    "emb_dropout_prob",
    "emb_pdrop",
    "embd_pdrop",
    "embedding_dropout",
    "fp16",
    "fp32",
    "gradient_checkpointing",
    "hidden_dropout",
    "initializer_range",
    "output_router_logits",
    "pretraining_tp",
    "resid_pdrop",
    "residual_dropout",
    "router_aux_loss_coef",
    "use_cache",
)
"""Keys that change training, what is returned beside the logits, or only the order of equal sums."""

_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_SIZES = (
    "d_model",
    "hidden_size",
    "n_embd",
    "n_head",
    "n_heads",
    "n_layer",
    "n_layers",
    "num_attention_heads",
    "num_hidden_layers",
    "num_layers",
    "padded_vocab_size",
    "vocab_size",
)
_ROPE = (
    "partial_rotary_factor",
    "rope_local_base_freq",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rotary_emb_base",
    "rotary_pct",
)
_NEVER_FILLED = frozenset((*_IDS, *_SIZES, *_ROPE))
"""Absent ids are the tokenizer's to say, absent sizes are an error, and ropes have two spellings."""
ROPE_READS = ("partial_rotary_factor", "rope_parameters", "rope_scaling", "rope_theta")
"""The keys of `rope.read_rope`."""


@dataclass(frozen=True)
class ConfigKeys:
    """The keys of one family; `model_type` names its class, those of objects within are ``object.key``.

    `renamed` are spellings that the class takes beside its own, though its table of names does not say so.
    """

    model_type: str
    reads: tuple[str, ...]
    inert: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)

    @property
    def of(self) -> ConfigClass:
        """The class whose defaults hold."""
        return config_class(self.model_type)

    def filled(self, values: dict[str, Any]) -> dict[str, Any]:
        """`values` under the names of the class, and what it takes for the keys that are absent."""
        found = self._named(values)
        for key, value in self.of.defaults.items():
            if key not in _NEVER_FILLED:
                found.setdefault(key, value)
        for part, within in self.of.parts.items():
            given = found.get(part)
            if given is None or isinstance(given, dict):
                found[part] = within.defaults | (given or {})
        return found

    def default(self, *keys: str) -> Any:
        """What the class takes for the first of the keys that it has; None when it has none."""
        return next((self.of.defaults[key] for key in keys if key in self.of.defaults), None)

    def problems(self, values: dict[str, Any]) -> Iterator[str]:
        """Keys that are not read though the class has them, and keys that are given under two names."""
        for alias, key in self._aliases().items():
            if alias in values and key in values and values[alias] != values[key]:
                yield f"{alias}: found {values[alias]!r}, and {key} {values[key]!r}: two names of one key"
        kind = values.get("model_type")
        if isinstance(kind, str) and kind in model_types() and kind != self.model_type:
            name = config_class(kind).name if is_known(kind) else "another class"
            yield (
                f"model_type: found {kind!r}, which is {name}, and architectures name a "
                f"model of {self.of.name}; transformers builds by the first, TensorRT-LLM by the second: one "
                "is wrong"
            )
        yield from self._unread(self._named(values), self.of, prefix="")
        for part, within in self.of.parts.items():
            given = values.get(part)
            if isinstance(given, dict):
                yield from self._unread(given, within, prefix=f"{part}.")
        if values.get("per_layer_config"):
            yield (
                f"per_layer_config: found {_short(values['per_layer_config'])}; {self.of.name} is built "
                "with layers that are all alike"
            )
        for key, expected in _SHARED_REFUSED.items():
            if values.get(key) not in (None, expected) and key not in self.reads:
                yield f"{key}: found {_short(values[key])}; only causal decoders, as they are, are converted"
        yield from self._uniform_windows(values)

    def _uniform_windows(self, values: dict[str, Any]) -> Iterator[str]:
        """Kinds of layers that a class without layer_types would pass over."""
        kinds = values.get("layer_types")
        if kinds is None or "layer_types" in self.reads:
            return
        window = self.filled(values).get("sliding_window") if "sliding_window" in self.reads else None
        expected = "full_attention" if window is None else "sliding_attention"
        if not isinstance(kinds, list) or any(kind != expected for kind in kinds):
            yield (
                f"layer_types: found {_short(kinds)}, but {self.of.name} computes all layers alike, as "
                f"{expected}; delete it, or name the architecture that it is of"
            )

    def _unread(self, values: dict[str, Any], of: ConfigClass, *, prefix: str) -> Iterator[str]:
        known = {*self.reads, *self.inert, *SHARED_READS, *INERT}
        for key, value in values.items():
            if prefix + key in known or key in INERT or key not in of.defaults:
                continue
            expected = of.defaults[key]
            if value != expected and value is not None:
                yield (
                    f"{prefix}{key}: found {_short(value)}, and {of.name} computes otherwise with it than "
                    f"what is built here, which is right for {_short(expected)} alone"
                )

    def _aliases(self) -> dict[str, str]:
        return self.of.aliases | self.renamed

    def _named(self, values: dict[str, Any]) -> dict[str, Any]:
        aliases = self._aliases()
        own = {key: value for key, value in values.items() if key not in aliases}
        return {**{aliases[key]: values[key] for key in values if key in aliases}, **own}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
