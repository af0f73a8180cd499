"""Every family: its shards hold the source bit for bit, however it is divided."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.conversion.planning import plan_shards
from builders.proof.verify import verify_shards
from builders.sources import open_source
from tests.support.families.cases import CASES
from tests.support.families.configs import FamilyCase, write_tiny_family
from tests.support.tiny_engine import write_engine_of
from tpforge.errors import PlanError
from tpforge.shards.mapping import Mapping
from tpforge.shards.sharding import ShardPlan


@pytest.mark.parametrize("case", CASES, ids=str)
def test_shards_hold_the_source_bit_for_bit(tmp_path: Path, case: FamilyCase) -> None:
    write_tiny_family(tmp_path / "source", case)
    for mapping in case.mappings():
        for dim in (None, 0):
            name = f"tp{mapping.tp_size}-pp{mapping.pp_size}-ep{mapping.moe_ep_size}-embedding-{dim}"
            engine, manifest = write_engine_of(
                tmp_path / "source", tmp_path / name, mapping=mapping, parallel_embedding_dim=dim
            )
            with open_source(str(tmp_path / "source")) as source:
                plan = ShardPlan(source.spec, mapping, manifest.padding, dim)
                report = verify_shards(source, engine / "checkpoint", plan=plan, dtype=manifest.dtype)
            assert report.problems == (), name
            assert report.num_tensors >= 10 * mapping.tp_size


@pytest.mark.parametrize("case", CASES, ids=str)
def test_more_ranks_than_heads_are_refused(tmp_path: Path, case: FamilyCase) -> None:
    write_tiny_family(tmp_path / "source", case)
    with open_source(str(tmp_path / "source")) as source, pytest.raises(PlanError, match="attention heads"):
        plan_shards(source, mapping=Mapping(tp_size=16), pad=True, parallel_embedding_dim=None)


@pytest.mark.parametrize("case", [case for case in CASES if not case.pads], ids=str)
def test_padded_heads_are_refused_where_they_would_be_misread(tmp_path: Path, case: FamilyCase) -> None:
    write_tiny_family(tmp_path / "source", case)
    with open_source(str(tmp_path / "source")) as source, pytest.raises(PlanError, match="heads"):
        plan_shards(source, mapping=Mapping(tp_size=3), pad=True, parallel_embedding_dim=None)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in ("gemma", "cohere")], ids=str)
def test_columns_of_an_embedding_that_is_always_divided_by_rows_are_refused(
    tmp_path: Path, case: FamilyCase
) -> None:
    write_tiny_family(tmp_path / "source", case)
    with open_source(str(tmp_path / "source")) as source, pytest.raises(PlanError, match="by vocabulary"):
        plan_shards(source, mapping=Mapping(tp_size=2), pad=True, parallel_embedding_dim=1)
