"""Every family: its ranks compute what transformers computes, however they are divided."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from builders.families.common.registry import FAMILIES
from tests.support.families.cases import CASES
from tests.support.families.configs import FamilyCase
from tests.support.families.proving import prove
from tests.support.families.record import RECORD, case_record


@pytest.mark.parametrize("case", CASES, ids=str)
def test_ranks_compute_what_transformers_computes(tmp_path: Path, case: FamilyCase) -> None:
    """And the record behind docs/families.md says which mappings were proven."""
    proofs = list(prove(case, tmp_path))
    for proof in proofs:
        assert proof.prompt_error < case.tolerance, proof.mapping
        assert proof.decode_error < case.tolerance, f"{proof.mapping}, decoding"
    recorded = {entry["case"]: entry for entry in json.loads(RECORD.read_text(encoding="utf-8"))["cases"]}
    assert case.name in recorded, "run: make families"
    found = case_record(case, tmp_path / "source", proofs)
    for key in set(found) - {"error"}:
        assert recorded[case.name][key] == found[key], f"{key}: run: make families"
    assert recorded[case.name]["error"] < case.tolerance


def test_every_family_has_a_case() -> None:
    recorded = {entry["family"] for entry in json.loads(RECORD.read_text(encoding="utf-8"))["cases"]}
    assert recorded == {family.name for family in FAMILIES if family.refusal is None}
