"""Every key of every config class means to us what it means to transformers, or is refused.

The judge is transformers: its class says what an absent key stands for, its model whether a changed key
changes the logits, and then ours must be the same or there must be none.
"""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from builders.families.common.base import Family
from builders.families.common.keys import INERT, SHARED_READS
from builders.families.common.reading import ConfigReader
from builders.families.common.registry import FAMILIES, find_family
from builders.families.config_classes import config_class
from tests.support.families.cases import CASES
from tests.support.families.changed_configs import (
    NOT_OF_THE_MODEL,
    changes,
    explicit,
    meaning,
    our_logits,
    reading,
    truth_of,
)
from tests.support.families.configs import FamilyCase
from tests.support.published.configs import PUBLISHED
from tests.support.published.older import OLDER
from tpforge.dtypes import DType
from tpforge.errors import InputRefused

pytestmark = pytest.mark.apart

# Variants whose every key is tried on another case already.
_ALIKE = ("llama", "qwen2", "gpt_bigcode, many keys", "falcon, grouped keys and one norm")
TRIED = [case for case in CASES if case.twin is None and case.name not in _ALIKE]
SIZES = (
    "d_model",
    "hidden_size",
    "n_embd",
    "n_head",
    "n_heads",
    "n_layer",
    "n_layers",
    "num_attention_heads",
    "num_hidden_layers",
    "vocab_size",
)
"""Refused when they are absent, though transformers has a default: no two models share it."""
CONTRADICTED = {
    ("qwen2, upper layers windowed", "use_sliding_window"),
    # The class's default contradicts the scaling that stays.
    ("phi3, long rope", "original_max_position_embeddings"),
    ("cohere", "rope_parameters"),
    ("cohere, biased and untied", "rope_parameters"),
    # Transformers 5 passes over attn_config.rope_theta, with which DBRX was trained.
    ("dbrx", "rope_parameters"),
    # The class's 0 is not what TensorRT-LLM builds.
    ("deepseek_v2", "first_k_dense_replace"),
}


@pytest.mark.parametrize("case", TRIED, ids=str)
def test_an_absent_key_means_what_transformers_class_says(case: FamilyCase) -> None:
    config = explicit(case)
    assert isinstance(reading(config), dict)
    wrong = []
    for key in config:
        if key in NOT_OF_THE_MODEL or key in SIZES or (case.name, key) in CONTRADICTED:
            continue
        absent = {name: value for name, value in config.items() if name != key}
        if reading(absent) != reading(meaning(absent)):
            wrong.append(key)
    assert not wrong


@pytest.mark.parametrize("case", TRIED, ids=str)
def test_absent_sizes_and_contradictions_are_refused(case: FamilyCase) -> None:
    config = explicit(case)
    keys = {key for key in SIZES if key in config}
    keys |= {key for name, key in CONTRADICTED if name == case.name and name != "dbrx"}
    for key in keys:
        absent = {name: value for name, value in config.items() if name != key}
        words = reading(absent)
        assert isinstance(words, str)
        assert key in words or key == "rope_parameters" or key == "use_sliding_window"


@pytest.mark.parametrize("case", TRIED, ids=str)
def test_a_changed_key_computes_what_transformers_computes_or_is_refused(
    case: FamilyCase, tmp_path: Path
) -> None:
    config = explicit(case)
    unchanged = truth_of(case, config)
    assert unchanged is not None
    wrong, num_alike, num_other = [], 0, 0
    for number, (label, changed) in enumerate(changes(config)):
        if isinstance(reading(changed), str):
            continue
        truth = truth_of(case, changed)
        if truth is None:
            continue
        if _is_alike(truth.logits, unchanged.logits):
            num_alike += 1
            if reading(changed) == reading(config):
                continue
        truth.save(tmp_path / f"{number}", config=changed)
        found = our_logits(tmp_path / f"{number}", tmp_path / f"{number}-engine")
        if isinstance(found, str):
            continue
        num_other += 1
        error = float((found - truth.logits).abs().max() / truth.logits.abs().max())
        if found.shape != truth.logits.shape or error > case.tolerance * 2:
            wrong.append(f"{label}: off by {error:.2g}")
    assert not wrong
    assert num_alike > 0 and num_other > 3


def _is_alike(logits: torch.Tensor, others: torch.Tensor) -> bool:
    return logits.shape == others.shape and torch.allclose(logits, others, atol=1e-6)


def _asked(family: Family) -> set[str]:
    """Every key that the family's reader looks at in published configs and cases, as they are and changed."""
    configs = [one.config for one in (*PUBLISHED, *OLDER)]
    configs += [explicit(case) for case in CASES if case.twin is None]
    asked: set[str] = set()
    for config in configs:
        if find_family(config["architectures"], where="") is not family:
            continue
        absent = [
            {key: config[key] for key in config if key != one} for one in config if one != "architectures"
        ]
        for one in (config, *absent, *(changed for _, changed in changes(config))):
            reader = ConfigReader(one, where="config.json", weight_dtype=DType.FLOAT32)
            with suppress(InputRefused):
                family.read_model(reader)
            asked |= reader.asked
    return asked


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_family_declares_just_the_keys_that_it_reads(family: Family) -> None:
    asked = _asked(family)
    spelled = {"torch_dtype", "architectures", "dtype", "quantization_config"}
    inside = {key for key in asked if key.startswith(("rope_parameters.", "rope_scaling."))}
    assert asked - spelled - inside == {*family.keys.reads, *SHARED_READS} - spelled - {
        key for key in family.keys.reads if key.startswith("rope_parameters.")
    }


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_key_of_a_class_is_read_or_inert_or_refused_by_name(family: Family) -> None:
    of = config_class(family.keys.model_type)
    known = {*family.keys.reads, *family.keys.inert, *SHARED_READS, *INERT}
    for key in of.defaults:
        if key in known or key in of.parts:
            continue
        (problem,) = family.keys.problems({key: "another value"})
        assert problem.startswith(f"{key}: found 'another value', and {of.name} computes otherwise")


def test_the_table_of_keys_is_that_of_the_installed_transformers() -> None:
    root = Path(__file__).parents[4]
    printed = subprocess.run(
        [sys.executable, root / "scripts/dev/config_classes.py"], capture_output=True, text=True, check=True
    ).stdout
    kept = json.loads(
        (root / "builders/families/config_classes/transformers-5.json").read_text(encoding="utf-8")
    )
    assert {**json.loads(printed), "transformers": ""} == {**kept, "transformers": ""}


def test_published_configs_are_read_without_a_problem() -> None:
    for one in (*PUBLISHED, *OLDER):
        assert isinstance(reading(one.config), dict), one.name
