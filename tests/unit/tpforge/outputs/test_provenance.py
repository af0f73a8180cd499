"""tpforge.outputs.provenance: in what two outputs differ, and in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.models import model_of
from tpforge.dtypes import DType
from tpforge.manifest import FileRecord, Limits, LlmApi, Manifest, SourceRecord
from tpforge.outputs.provenance import (
    Input,
    Provenance,
    differences,
    engine_input,
    engine_provenance,
    made_of,
)
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import plan_padding


def record(**changes: Any) -> Provenance:
    given: dict[str, Any] = {
        "version": "1.0",
        "inputs": {"model": Input(location="/models/a", identity="aa")},
        "options": {"tp": 2, "dtype": "float16", "limits": {"a": 1}},
        "code": "cc",
    }
    return made_of(**(given | changes))


def test_equal_records_differ_in_nothing_wherever_the_input_lay() -> None:
    moved = record(inputs={"model": Input(location="/elsewhere", identity="aa")})
    assert differences(record(), moved) == []
    assert record().identity == moved.identity


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"version": "2.0", "code": "dd"}, ["tpforge version is 1.0, asked for 2.0"]),
        (
            {"options": {"tp": 4, "dtype": "bfloat16", "limits": {"a": 2}}},
            ["tp is 2, asked for 4", "dtype is float16, asked for bfloat16"],
        ),
        ({"options": {"tp": 2, "dtype": "float16", "limits": {"a": 2}}}, ["its limits is another one"]),
        ({"options": {"tp": 2, "dtype": "float16"}}, ["its limits is another one"]),
        (
            {"inputs": {"model": Input(location="/models/b", identity="bb")}},
            ["it was made of other files, /models/a"],
        ),
        ({"inputs": {}}, ["model is among what it was made of, /models/a"]),
        ({"code": "dd"}, ["it was made by other code of this version of tpforge"]),
    ],
)
def test_each_kind_of_difference_is_told_and_changes_the_identity(
    changes: dict[str, Any], found: list[str]
) -> None:
    assert differences(record(), record(**changes)) == found
    assert record().identity != record(**changes).identity


def test_an_output_of_which_no_code_was_kept_is_judged_by_all_else() -> None:
    assert differences(record(code=None), record()) == []
    assert differences(record(code=None), record(version="2.0")) == ["tpforge version is 1.0, asked for 2.0"]


def test_a_record_that_was_kept_as_json_is_equal_to_the_one_that_is_made() -> None:
    options = {"sizes": (1, 2), "dtype": DType.FLOAT16}
    kept = Provenance.model_validate(json.loads(record(options=options).model_dump_json()))
    assert differences(kept, record(options=options)) == []


def manifest(**changes: Any) -> Manifest:
    model = model_of(num_heads=4, num_kv_heads=4, head_size=2)
    given: dict[str, Any] = {
        "name": "a",
        "tpforge_version": "1.0",
        "code": "cc",
        "runtime": "reference",
        "source": SourceRecord(
            kind="huggingface", location="/m", files=(FileRecord(path="w", size=1, sha256="00"),)
        ),
        "model": model,
        "mapping": Mapping(tp_size=2),
        "padding": plan_padding(model, tp_size=2, moe_ep_size=1, allow=True),
        "dtype": DType.FLOAT16,
        "limits": Limits(),
        "files": (),
        "command": ("tpforge", "build", "/m", "--tp", "2"),
    }
    return Manifest(**(given | changes))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"name": "b", "command": ("tpforge", "build", "/m", "--tp", "2", "--no-pad")}, []),
        ({"mapping": Mapping(tp_size=4)}, ["tp is 2, asked for 4"]),
        ({"dtype": DType.BFLOAT16}, ["dtype is float16, asked for bfloat16"]),
        ({"parallel_embedding_dim": 1}, ["parallel embedding is None, asked for 1"]),
        (
            {"quantization": Quantization(format="int4_wo", group_size=64, kv_cache="fp8")},
            ["quantization is none, asked for int4_wo packed 64 fp8"],
        ),
        ({"limits": Limits(max_batch_size=9)}, ["max_batch_size is 8, asked for 9"]),
        ({"tpforge_version": "2.0"}, ["tpforge version is 1.0, asked for 2.0"]),
        (
            {"source": SourceRecord(kind="huggingface", location="/other", files=())},
            ["it was made of other files, /m"],
        ),
        ({"code": "dd"}, ["it was made by other code of this version of tpforge"]),
        ({"runtime": "tensorrt", "command": ()}, ["runtime is reference, asked for tensorrt"]),
    ],
)
def test_an_engine_differs_in_what_it_is_made_of(changes: dict[str, Any], found: list[str]) -> None:
    assert differences(engine_provenance(manifest()), engine_provenance(manifest(**changes))) == found


def test_an_engine_of_tensorrt_llm_differs_in_its_arguments_and_options_but_not_in_where_the_model_lies() -> (
    None
):
    def of(*command: str, **arguments: Any) -> Provenance:
        llm_api = LlmApi(trtllm="1.2.1", arguments=arguments)
        return engine_provenance(manifest(runtime="pytorch", llm_api=llm_api, command=command))

    kept = of("tpforge", "build", "/m", "--tp", "2", a=1)
    assert differences(kept, of("tpforge", "build", "/moved", "--tp", "2", a=1)) == []
    assert differences(kept, of("tpforge", "build", "/m", "--tp", "2", a=2)) == [
        "its arguments is another one"
    ]
    assert differences(kept, of("tpforge", "build", "/m", "--tp", "2", "--sm", "90", a=1)) == [
        "its command is another one"
    ]


def test_what_was_proven_of_an_engine_does_not_make_it_another_input() -> None:
    one = engine_input(manifest(), location="/e")
    assert engine_input(manifest(golden=()), location="/e") == one
    assert engine_input(manifest(limits=Limits(max_batch_size=9)), location="/e").identity != one.identity
