"""Writes docs/families.json, the proofs behind docs/families.md; run by `make families`.

It decides nothing: tests fail when a proof deviates, or when this record is not of the proofs they make.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from builders.families.common.registry import find_family
from tests.support.families.cases import CASES
from tests.support.families.configs import FamilyCase
from tests.support.families.proving import Proof, prove
from tpforge.outputs.atomic import write_atomic

RECORD = Path(__file__).resolve().parents[3] / "docs" / "families.json"


def case_record(case: FamilyCase, source: Path, proofs: Sequence[Proof]) -> dict[str, Any]:
    """What is kept of the proofs of a case, whose checkpoint is at `source`."""
    architectures = json.loads((source / "config.json").read_text(encoding="utf-8"))["architectures"]
    error = max(max(proof.prompt_error, proof.decode_error) for proof in proofs)
    return {
        "family": find_family(architectures, where=case.name).name,
        "case": case.name,
        "architecture": architectures[0],
        "twin": case.twin,
        "pads": case.pads,
        "mappings": [
            [proof.mapping.tp_size, proof.mapping.pp_size, proof.mapping.moe_ep_size] for proof in proofs
        ],
        "error": float(f"{error:.1e}"),
    }


def main() -> None:
    """Prove every case and write the record."""
    cases = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            proofs = list(prove(case, Path(folder)))
            cases.append(case_record(case, Path(folder) / "source", proofs))
    # The versions, without the build of torch.
    versions = {"transformers": transformers.__version__, "torch": torch.__version__.split("+")[0]}
    record = {"versions": versions, "cases": cases}
    write_atomic(RECORD, json.dumps(record, indent=1) + "\n")
    print(RECORD)


if __name__ == "__main__":
    main()
