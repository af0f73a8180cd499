"""The messages of trtllm-serve's gRPC, held to upstream's own descriptor, kept as data."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from tests.support.servers.standin_smg import UPSTREAM, upstream_messages
from tpforge.errors import UsageError
from triton_repo.trtllm_serve import smg

TOLD: dict[str, Any] = tomllib.loads(UPSTREAM.read_text())
UP = upstream_messages()


@pytest.mark.parametrize("name", sorted(smg.FIELDS))
def test_every_field_has_upstream_s_number_and_type(name: str) -> None:
    upstream = TOLD["messages"][name]
    assert {field: [number, kind] for field, number, kind in smg.FIELDS[name]} == {
        field: upstream[field] for field, _, _ in smg.FIELDS[name]
    }


def test_the_methods_are_upstream_s() -> None:
    methods = {f"/{TOLD['package']}.{TOLD['service']}/{name}": pair for name, *pair in TOLD["methods"]}
    assert methods[smg.GENERATE] == ["GenerateRequest", "GenerateResponse"]
    assert methods[smg.HEALTH] == ["HealthCheckRequest", "HealthCheckResponse"]
    assert methods[smg.MODEL_INFO] == ["GetModelInfoRequest", "GetModelInfoResponse"]
    assert methods[smg.SERVER_INFO] == ["GetServerInfoRequest", "GetServerInfoResponse"]


def test_what_is_asked_arrives_as_it_was_meant() -> None:
    sampling = {
        "temperature": 0.5,
        "top_k": 3,
        "seed": 2**63,
        "min_tokens": 4,
        "ignore_eos": True,
        "stop": "x",
    }
    ours = smg.generate_request([1, 70000, 3], max_tokens=9, request_id="r", sampling=sampling)
    found = UP["GenerateRequest"].FromString(ours.SerializeToString())
    assert (found.request_id, found.max_tokens, found.streaming, found.ignore_eos) == ("r", 9, True, True)
    assert list(found.tokenized.input_token_ids) == [1, 70000, 3]
    asked = found.sampling_config
    assert (asked.temperature, asked.top_k, asked.seed, asked.min_tokens) == (0.5, 3, 2**63, 4)
    assert (asked.beam_width, asked.num_return_sequences, list(found.stop)) == (1, 1, ["x"])
    assert found.output_config.exclude_input_from_output


def test_what_comes_is_read_as_it_was_meant() -> None:
    theirs = UP["GenerateResponse"](request_id="r")
    theirs.chunk.token_ids.extend([5, 300])
    theirs.chunk.completion_tokens = 2
    found = smg.MESSAGES["GenerateResponse"].FromString(theirs.SerializeToString())
    assert found.HasField("chunk") and not found.HasField("complete")
    assert (list(found.chunk.token_ids), found.chunk.completion_tokens) == ([5, 300], 2)


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({"topk": 1}, "trtllm-serve's gRPC has no topk; it has frequency_penalty"),
        ({"top_k": "x"}, "top_k='x': "),
    ],
)
def test_what_the_protocol_has_not_is_refused_before_it_is_sent(sampling: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        smg.generate_request([1], max_tokens=1, sampling=sampling)
