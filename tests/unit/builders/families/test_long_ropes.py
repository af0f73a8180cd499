"""Long ropes that state how cosine and sine are scaled: as lengths give it, or refused.

The judge is transformers: what it computes with the number stated, ours must compute from the lengths alone,
as TensorRT-LLM does.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.support.families.cases import CASES
from tests.support.families.changed_configs import explicit, our_logits, reading, truth_of
from tests.support.families.configs import FamilyCase
from tests.support.published.older import OLDER

PHI3 = next(case for case in CASES if case.name == "phi3, long rope")
PHIMOE = next(case for case in CASES if case.name == "phimoe")
# 128 positions, of which 64 are the original ones.
OF_LENGTHS = math.sqrt(1 + math.log(2) / math.log(64))
SCALES = {"short_mscale": 1.25, "long_mscale": 1.5}


def stating(case: FamilyCase, **stated: Any) -> dict[str, Any]:
    """The config of a case with these numbers in its rope."""
    config = explicit(case)
    rope = PHI3.settings["rope_parameters"] | stated
    return {**config, "original_max_position_embeddings": 64, "rope_parameters": rope}


@pytest.mark.parametrize(
    ("case", "stated"),
    [
        (PHI3, {"attention_factor": OF_LENGTHS}),
        (PHI3, {"attention_factor": round(OF_LENGTHS, 6)}),
        (PHI3, {"factor": 2.0}),
        # The factor is looked at only where no attention_factor is stated.
        (PHI3, {"factor": 16.0, "attention_factor": OF_LENGTHS}),
        # Of this class the two scales alone are looked at.
        (PHIMOE, {**SCALES, "attention_factor": 3.0, "factor": 16.0}),
    ],
    ids=str,
)
def test_a_stated_scale_computes_what_transformers_computes(
    tmp_path: Path, case: FamilyCase, stated: dict[str, Any]
) -> None:
    config = stating(case, **stated)
    truth = truth_of(case, config)
    assert truth is not None
    truth.save(tmp_path / "source", config=config)
    found = our_logits(tmp_path / "source", tmp_path / "engine")
    assert not isinstance(found, str), found
    assert float((found - truth.logits).abs().max() / truth.logits.abs().max()) < case.tolerance


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"attention_factor": 1.5}, "attention_factor: found 1.5, with which transformers scales"),
        ({"attention_factor": 1}, "attention_factor: found 1, with which"),
        ({"factor": 16.0}, "factor: found 16.0, with which transformers scales cosine and sine by 1.29099"),
        ({"attention_factor": 0}, "attention_factor: found 0, expected a number above 0"),
        ({"attention_factor": "1.2"}, "attention_factor: found '1.2', expected a number above 0"),
    ],
)
def test_a_scale_that_tensorrt_llm_does_not_have_is_refused(stated: dict[str, Any], words: str) -> None:
    found = reading(stating(PHI3, **stated))
    assert isinstance(found, str)
    assert words in found and found.count("rope_scaling: ") == 1
    unchanged, changed = truth_of(PHI3, stating(PHI3)), truth_of(PHI3, stating(PHI3, **stated))
    assert unchanged is not None
    assert changed is None or not unchanged.logits.allclose(changed.logits, atol=1e-4)


@pytest.mark.parametrize("key", sorted(SCALES))
def test_a_scale_that_its_class_looks_for_is_not_left_out(key: str) -> None:
    published = next(one.config for one in OLDER if "long_mscale" in (one.config.get("rope_scaling") or {}))
    assert isinstance(reading(published), dict)
    held = {name: value for name, value in published["rope_scaling"].items() if name != key}
    assert f"rope_scaling: {key}: missing" in str(reading({**published, "rope_scaling": held}))
    assert truth_of(PHIMOE, stating(PHIMOE, **{name: 1.0 for name in SCALES if name != key})) is None
