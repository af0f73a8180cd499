"""Keys of families that transformers has no class for mean to us what their own code says; none is untried.

The judges are the defaults of the remote code's config classes (config_classes/remote-code.json) and the
logits of a transformers model that computes the same: a key that it has under another name is changed there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.families.common.base import Family
from builders.families.common.keys import INERT, SHARED_READS
from builders.families.common.registry import FAMILIES, find_family
from builders.families.config_classes import config_class
from tests.support.families.cases import CASES
from tests.support.families.changed_configs import (
    NOT_OF_THE_MODEL,
    Config,
    changes,
    explicit,
    our_logits,
    reading,
)
from tests.support.families.configs import FamilyCase, tiny_config, tiny_model
from tests.support.families.proving import TOKENS
from tests.unit.builders.families.test_config_keys import SIZES

TWINS = [case for case in CASES if case.export is not None]
SIZES_OF_TWINS = (
    *SIZES,
    "ffn_hidden_size",
    "intermediate_size",
    "kv_channels",
    "num_layers",
    "padded_vocab_size",
)
_HALF = {"rope_type": "default", "partial_rotary_factor": 0.5}
IN_THE_TWIN: dict[str, Callable[[Any], Config]] = {
    "layer_norm_epsilon": lambda value: {"rms_norm_eps": value},
    "layernorm_epsilon": lambda value: {"rms_norm_eps": value},
    # Baichuan, which has as many KV heads; of the others the tensors say no.
    "num_attention_heads": lambda value: {"num_attention_heads": value, "num_key_value_heads": value},
    "rms_norm_eps": lambda value: {"rms_norm_eps": value},
    "rope_parameters": lambda value: {"rope_parameters": {"rope_theta": 10000.0, **value}},
    "rope_ratio": lambda value: {"rope_parameters": {**_HALF, "rope_theta": 10000.0 * value}},
    "rope_scaling": lambda value: {"rope_parameters": {"rope_theta": 10000.0, **(value or {})}},
    "rope_theta": lambda value: {"rope_parameters": {"rope_type": "default", "rope_theta": value}},
    "rotary_emb_base": lambda value: {"rope_parameters": {"rope_type": "default", "rope_theta": value}},
}
"""What the twin calls a key; of all others its logits are those of the unchanged model."""
OF_EIGHT_HEADS = ("baichuan, alibi",)
"""Twins whose slopes are of eight heads."""
CONTRADICTED = {
    # Without it the vocabulary would have to say which version it is, and a tiny one does not.
    ("baichuan, rotary", "z_loss_weight"),
    ("baichuan, alibi", "z_loss_weight"),
    # Neither length is there then.
    ("baichuan, rotary", "max_position_embeddings"),
    ("baichuan, alibi", "model_max_length"),
}


def exported(case: FamilyCase, folder: Path, settings: Config) -> tuple[Config, torch.Tensor]:
    """The config.json of the case, written with its tensors, and the logits of its twin with `settings`."""
    changed = FamilyCase(**{**vars(case), "settings": {**case.settings, **settings}})
    model = tiny_model(case, config=tiny_config(changed))
    with torch.inference_mode():
        logits: torch.Tensor = model(torch.tensor([TOKENS])).logits[0].float()
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert case.export is not None
    tensors, config = case.export(load_file(folder / "model.safetensors"), config)
    save_file({name: one.contiguous() for name, one in tensors.items()}, folder / "model.safetensors")
    return config, logits


def stated(case: FamilyCase, folder: Path) -> Config:
    """The config of a case with every key of its remote class that has a default in it."""
    config, _ = exported(case, folder, {})
    defaults = config_class(family_of(config).keys.model_type).defaults
    return {key: value for key, value in defaults.items() if value is not None} | config


def family_of(config: Config) -> Family:
    return find_family(config["architectures"], where="")


@pytest.mark.parametrize("case", TWINS, ids=str)
def test_an_absent_key_means_what_the_remote_class_says(case: FamilyCase, tmp_path: Path) -> None:
    config = stated(case, tmp_path / "model")
    assert isinstance(reading(config), dict)
    defaults = config_class(family_of(config).keys.model_type).defaults
    wrong = []
    for key in config:
        if key in NOT_OF_THE_MODEL or key in SIZES_OF_TWINS or (case.name, key) in CONTRADICTED:
            continue
        absent = {name: value for name, value in config.items() if name != key}
        if reading(absent) != reading(absent | {key: defaults.get(key)}):
            wrong.append(key)
    assert not wrong


@pytest.mark.parametrize("case", TWINS, ids=str)
def test_a_changed_key_computes_what_the_twin_computes_or_is_refused(
    case: FamilyCase, tmp_path: Path
) -> None:
    config = stated(case, tmp_path / "model")
    keys = family_of(config).keys
    wrong, num_computed, num_passed_over = [], 0, 0
    for number, (label, changed) in enumerate(changes(config)):
        key = label.partition(" = ")[0]
        found = reading(changed)
        if isinstance(found, str) or (key == "num_attention_heads" and case.name in OF_EIGHT_HEADS):
            continue
        is_known = key in keys.of.defaults or key in keys.reads
        if found == reading(config):
            num_passed_over += 1
            if is_known and key not in {*keys.inert, *INERT, *keys.reads, *SHARED_READS}:
                wrong.append(f"{label}: passed over")
            if not is_known or key not in IN_THE_TWIN:
                continue
        # The tensors stay: what is of another shape then is refused.
        (tmp_path / "model" / "config.json").write_text(json.dumps(changed))
        computed = our_logits(tmp_path / "model", tmp_path / f"{number}-engine")
        if isinstance(computed, str):
            continue
        _, truth = exported(case, tmp_path / f"{number}", IN_THE_TWIN.get(key, lambda _: {})(changed[key]))
        num_computed += 1
        error = float((computed - truth).abs().max() / truth.abs().max())
        if computed.shape != truth.shape or error > case.tolerance * 2:
            wrong.append(f"{label}: off by {error:.2g}")
    assert not wrong
    assert num_computed > 1 and num_passed_over > 0


def test_every_family_and_every_key_of_its_class_is_left_out_and_changed(tmp_path: Path) -> None:
    tried: dict[str, set[str]] = {family.name: set() for family in FAMILIES}
    for number, case in enumerate(CASES):
        config = explicit(case) if case.twin is None else stated(case, tmp_path / f"{number}")
        tried[family_of(config).name] |= {label.partition(" = ")[0] for label, _ in changes(config)}
        tried[family_of(config).name] |= config.keys()
    missing = {}
    for family in FAMILIES:
        of = config_class(family.keys.model_type)
        # A key without a default is tried by the cases that have it, and by the list that all are tried with.
        expected = {key for key, value in of.defaults.items() if value is not None} - {*NOT_OF_THE_MODEL}
        expected -= set(of.aliases)
        if untried := expected - tried[family.name]:
            missing[family.name] = sorted(untried)
    assert not missing
