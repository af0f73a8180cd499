"""A tiny model's config.json with one key left out or changed: what transformers computes, and what we do.

It judges nothing; `test_config_keys` does. Transformers' class says what a key means, its model what follows.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from builders.families.common.reading import ConfigReader
from builders.families.common.registry import find_family
from engines.reference import load_config, open_executor
from engines.reference.batches import Logits, Prefill
from tests.support.families.configs import FamilyCase, tiny_config, tiny_model
from tests.support.families.proving import TOKENS
from tests.support.tiny_engine import write_engine_of
from tpforge.dtypes import DType
from tpforge.errors import TpforgeError
from tpforge.manifest import Limits
from tpforge.shards.mapping import Mapping

Config = dict[str, Any]

NOT_OF_THE_MODEL = frozenset(
    (
        "_name_or_path",
        "architectures",
        "bos_token_id",
        "dtype",
        "eos_token_id",
        "id2label",
        "label2id",
        "model_type",
        "output_attentions",
        "pad_token_id",
        "transformers_version",
    )
)
_EXTRA: Config = {
    "aux_loss_alpha": 0.5,
    "head_dim": 16,
    "is_causal": False,
    "layer_types": ["full_attention", "sliding_attention", "full_attention"],
    "max_window_layers": 1,
    "n_embed": 32,
    "partial_rotary_factor": 0.5,
    "rope_local_base_freq": 777.0,
    "rope_theta": 777.0,
    "rotary_emb_base": 777.0,
    "rotary_pct": 0.25,
    "seq_aux": False,
    "sliding_window": 4,
    "sliding_window_pattern": 3,
    "use_sliding_window": True,
    "verbose": 1,
}
"""Keys that are tried on every family, whether its class has them or not: models ask for some by getattr."""
_TEXTS = ("gelu", "relu", "silu", "greedy", "group_limited_greedy")
_OF_NONE: dict[str, tuple[Any, ...]] = {
    "layer_types": (["full_attention", "sliding_attention", "full_attention"],),
    "mlp_only_layers": ([1],),
    "sliding_window": (4,),
    "logit_scale": (0.5,),
    "clip_qkv": (0.5,),
    "softmax_scale": (0.5,),
}
_ROPES: tuple[Config, ...] = (
    {"rope_type": "default", "rope_theta": 123.0},
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "truncate": False},
    {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "mscale": 0.5,
        "mscale_all_dim": 0.3,
    },
    {
        "rope_type": "llama3",
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
)


def explicit(case: FamilyCase) -> Config:
    """The config.json of a case with every key of its class in it."""
    architecture = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[case.model_type]
    return _stated(tiny_config(case)) | {"architectures": [architecture]}


def meaning(config: Config) -> Config:
    """The same config with all that transformers' class takes for absent keys stated."""
    found = AutoConfig.for_model(config["model_type"], **_arguments(config))
    return _stated(found) | {"architectures": config["architectures"]}


def reading(config: Config) -> dict[str, Any] | str:
    """Our ModelSpec of a config without the ids of tokens, or the words with which it is refused."""
    family = find_family(config["architectures"], where="config.json")
    reader = ConfigReader(config, where="config.json", weight_dtype=DType.FLOAT32)
    try:
        return family.read_model(reader).model_dump(mode="json", exclude={"special_tokens"})
    except TpforgeError as error:
        return str(error)


def changes(config: Config) -> Iterator[tuple[str, Config]]:
    """Every key of the config, and those of all classes, with other values; parts key by key."""
    for key, value in {**dict.fromkeys(_EXTRA), **config}.items():
        if key in NOT_OF_THE_MODEL:
            continue
        for other in _others(key, value):
            yield f"{key} = {other!r}", {**config, key: other}


def _others(key: str, value: Any) -> Iterator[Any]:
    if key == "rope_parameters":
        yield from _ROPES
        return
    if isinstance(value, dict):
        for inner, held in value.items():
            yield from ({**value, inner: other} for other in _others(inner, held))
        return
    if value is None:
        yield from _OF_NONE.get(key, (_EXTRA[key],) if key in _EXTRA else (True, 2))
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value * 2, value - 1)
    elif isinstance(value, float):
        yield value * 1.5 + 0.1
    elif isinstance(value, str):
        yield from (text for text in _TEXTS if text != value)
    elif isinstance(value, list) and value:
        yield value[::-1]
        yield [value[-1]] * len(value)


@dataclass(frozen=True)
class Truth:
    """A model of transformers' own and what it computes."""

    model: PreTrainedModel
    logits: torch.Tensor

    def save(self, folder: Path, *, config: Config) -> None:
        """Write its checkpoint, config.json just as it is given."""
        self.model.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def truth_of(case: FamilyCase, config: Config) -> Truth | None:
    """What the model of a config computes with the weights of the case; None when transformers rejects it."""
    try:
        found = AutoConfig.for_model(config["model_type"], **_arguments(config))
        model = tiny_model(case, config=found)
        with torch.inference_mode():
            return Truth(model, model(torch.tensor([TOKENS])).logits[0].float())
    # Whatever transformers and torch raise for a config that makes no model.
    except Exception:
        return None


def our_logits(source: Path, engine: Path) -> torch.Tensor | str:
    """What the converted checkpoint computes, or the words with which it is refused."""
    limits = Limits(max_batch_size=1, max_input_len=32, max_seq_len=64)
    try:
        folder, _ = write_engine_of(source, engine, mapping=Mapping(), limits=limits)
        executor = open_executor(
            load_config(folder), kind="lockstep", device="cpu", compute_dtype="float32", num_slots=1
        )
    except (TpforgeError, ValueError) as error:
        return str(error)
    logits = executor.forward(Prefill(0, 0, TOKENS, Logits.ALL))
    assert logits is not None
    return logits


def _stated(config: Any) -> Config:
    held: Config = json.loads(config.to_json_string(use_diff=False))
    for name in config.sub_configs:
        held[name] = {key: value for key, value in held[name].items() if key not in NOT_OF_THE_MODEL}
    return held


def _arguments(config: Config) -> Config:
    # A copy, because transformers writes into the objects that it is given.
    return {
        key: copy.deepcopy(value)
        for key, value in config.items()
        if key not in ("model_type", "architectures")
    }
