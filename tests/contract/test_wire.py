"""Answers have the shapes and defaults that clients written for upstream expect; upstream/wire.toml has them.

Texts are compared elsewhere. Each is asked of the ensemble's members and of tensorrt_llm_bls.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from tritonclient.utils import np_to_triton_dtype

from tests.contract.asking import alone, ask_bls, ask_members, prompt, tensors, tokens
from tests.contract.fake_triton import Request, Sent, Server
from tpforge.repository_options import PytorchOptions, ReferenceOptions, TensorrtOptions
from triton_repo.render.contract import expected_tensors
from triton_repo.render.parameters import parameter_tables

WIRE = tomllib.loads((Path(__file__).parent / "upstream" / "wire.toml").read_text())
ASKS = {"ensemble": ask_members, "tensorrt_llm_bls": ask_bls}
PROMPT = (10, 20, 30, 40)


@pytest.fixture(params=list(ASKS))
def ask(request: pytest.FixtureRequest, server: Server) -> Any:
    return lambda **values: ASKS[request.param](server, **values)


def with_text(answers: list[Sent]) -> list[Sent]:
    found = [sent for sent in answers if "text_output" in sent.tensors]
    assert found
    return found


@pytest.mark.parametrize("stream", [False, True])
def test_the_text_of_a_response_is_one_string_without_a_batch_dimension(ask: Any, stream: bool) -> None:
    answers = with_text(ask(text_input=b"the", max_tokens=12, end_id=-1, stream=stream))

    for sent in answers:
        assert sent.tensors["text_output"].ndim == WIRE["text_output"]["dimensions"]
        assert sent.tensors["text_output"].shape == (1,)
        assert isinstance(sent.tensors["text_output"][0], bytes)


@pytest.mark.parametrize("stream", [False, True])
def test_so_is_that_of_every_item_and_sequence_with_its_indices(ask: Any, stream: bool) -> None:
    answers = with_text(
        ask(
            text_input=[[b"the"], [b"a"]],
            max_tokens=[[3], [3]],
            end_id=[[-1], [-1]],
            stream=[[stream], [stream]],
            num_return_sequences=[[2], [2]],
        )
    )

    places = set()
    for sent in answers:
        assert sent.tensors["text_output"].shape == (1,)
        batch, sequence = sent.tensors["batch_index"], sent.tensors["sequence_index"]
        assert batch.ndim == sequence.ndim == WIRE["indices"]["dimensions"]
        places.add((int(batch[0][0]), int(sequence[0][0])))
    assert places == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_postprocessing_lists_the_texts_of_a_batch_one_after_the_other(server: Server) -> None:
    def decode(runs: Any, lengths: Any) -> Any:
        asked = tensors("postprocessing", TOKENS_BATCH=runs, SEQUENCE_LENGTH=lengths)
        return next(server.run("postprocessing", Request(asked))).tensors["OUTPUT"]

    runs, lengths = [[[64, 65], [66, 0]], [[67, 0], [68, 69]]], [[2, 1], [1, 2]]
    found = decode(runs, lengths)

    assert found.ndim == WIRE["text_output"]["dimensions"]
    each = [
        decode([[run[:length]]], [[length]])[0]
        for row, ends in zip(runs, lengths, strict=True)
        for run, length in zip(row, ends, strict=True)
    ]
    assert found.tolist() == each
    assert len(set(each)) == 4


def test_the_prompt_is_in_an_answer_unless_it_is_excluded(server: Server) -> None:
    asked = {"input_ids": list(PROMPT), "input_lengths": 4, "request_output_len": 3, "end_id": -1}
    [whole] = tokens(list(server.run("tensorrt_llm", Request(tensors("tensorrt_llm", **asked)))))
    [rest] = tokens(list(server.run("tensorrt_llm", prompt(PROMPT, request_output_len=3, end_id=-1))))

    assert WIRE["defaults"]["exclude_input_in_output"] is False
    assert whole == [*PROMPT, *rest]


def test_the_prompt_is_in_an_answer_by_the_defaults_of_every_repository() -> None:
    [parameter] = [
        one for one in parameter_tables()["tensorrt_llm"].parameters if one.name == "exclude_input_in_output"
    ]

    for options in (ReferenceOptions(), TensorrtOptions(), PytorchOptions()):
        assert options.exclude_input_in_output is WIRE["defaults"]["exclude_input_in_output"]
    assert parameter.default is WIRE["defaults"]["exclude_input_in_output"]


def test_a_batch_of_four_with_parameters_of_their_own_is_answered_as_each_alone(ask: Any) -> None:
    items = [
        {"text_input": b"the", "max_tokens": 4, "temperature": 0.5, "top_k": 5, "seed": 7, "min_tokens": 1},
        {"text_input": b"a", "max_tokens": 9, "temperature": 1.0, "top_k": 1, "seed": 1, "min_tokens": 9},
        {
            "text_input": b"of France",
            "max_tokens": 6,
            "temperature": 2.0,
            "top_k": 50,
            "seed": 3,
            "min_tokens": 2,
        },
        {"text_input": b"x", "max_tokens": 1, "temperature": 0.9, "top_k": 2, "seed": 2**63, "min_tokens": 1},
    ]
    flags = [
        {"exclude_input_in_output": number % 2 == 0, "return_log_probs": number > 1} for number in range(4)
    ]
    asked = [{**item, **flag, "end_id": -1} for item, flag in zip(items, flags, strict=True)]

    alone = [with_text(ask(**values))[0].tensors for values in asked]
    together = with_text(ask(**{name: [[values[name]] for values in asked] for name in asked[0]}))

    assert len(together) == 4
    for sent in together:
        expected = alone[int(sent.tensors["batch_index"][0][0])]
        assert sent.tensors["text_output"].tolist() == expected["text_output"].tolist()
        assert ("output_log_probs" in sent.tensors) is ("output_log_probs" in expected)


@pytest.mark.parametrize("pad_id", [None, 7])
def test_preprocessing_gives_the_start_of_a_decoder_and_tensorrt_llm_takes_it(
    server: Server, pad_id: int | None
) -> None:
    """As upstream's end_to_end_test.py goes on: every output of the first is an input of the second."""
    asked = {"QUERY": [[b"the"], [b"of France"]], "REQUEST_OUTPUT_LEN": [[3], [3]]}
    asked |= {} if pad_id is None else {"PAD_ID": [[pad_id]] * 2}
    found = next(server.run("preprocessing", Request(tensors("preprocessing", **asked)))).tensors

    assert found["DECODER_INPUT_ID"].tolist() == found["OUT_PAD_ID"].tolist()
    assert (
        found["REQUEST_DECODER_INPUT_LEN"].tolist() == [[WIRE["preprocessing"]["decoder_input_length"]]] * 2
    )
    answers = list(
        server.run(
            "tensorrt_llm",
            Request(
                {
                    "input_ids": found["INPUT_ID"],
                    "input_lengths": found["REQUEST_INPUT_LEN"],
                    "request_output_len": found["REQUEST_OUTPUT_LEN"],
                    "decoder_input_ids": found["DECODER_INPUT_ID"],
                    "decoder_input_lengths": found["REQUEST_DECODER_INPUT_LEN"],
                }
            ),
        )
    )
    assert [sent.error for sent in answers] == [None, None]


def test_more_of_a_decoder_than_its_start_is_refused(server: Server) -> None:
    asked = prompt(PROMPT, request_output_len=3, decoder_input_ids=[0, 5], decoder_input_lengths=2)

    [sent] = list(server.run("tensorrt_llm", asked))

    assert "decoder_text_input (decoder_input_ids): encoder-decoder models is not supported" in (
        sent.error or ""
    )


@pytest.mark.parametrize("stream", [False, True])
def test_every_response_has_all_of_the_performance_metrics_that_were_asked_for(
    ask: Any, stream: bool
) -> None:
    answers = ask(text_input=b"the", max_tokens=6, end_id=-1, stream=stream, return_perf_metrics=True)
    contract = {tensor.name: tensor.datatype for tensor in expected_tensors("tensorrt_llm").outputs}

    for sent in with_text(answers):
        found = {name: sent.tensors[name] for name in WIRE["perf_metrics"]["outputs"]}
        for name, values in found.items():
            assert values[0][0] >= 0
            assert np_to_triton_dtype(values.dtype) == contract[name], name
        times = [
            int(found[f"{name}_time_ns"][0][0])
            for name in ("arrival", "first_scheduled", "first_token", "last_token")
        ]
        assert times == sorted(times)
        assert min(times) > 0
    assert set(WIRE["perf_metrics"]["outputs"]).isdisjoint(
        with_text(ask(text_input=b"the", max_tokens=2))[0].tensors
    )


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("model", ["tensorrt_llm", "tensorrt_llm_bls"])
def test_a_request_ends_with_an_error_when_its_timeout_is_over(
    server: Server, model: str, streaming: bool
) -> None:
    """Triton leaves it to the model to end what cannot be completed within `timeout` microseconds."""
    if model == "tensorrt_llm":
        request = prompt(PROMPT, request_output_len=300, end_id=-1, streaming=streaming)
    else:
        values = alone({"text_input": b"the", "max_tokens": 300, "end_id": -1, "stream": streaming})
        request = Request(tensors(model, **values))
    request.timeout_us = 1000

    *_, last = server.run(model, request)

    assert last.error == "timeout: no complete answer within 1000 microseconds"
    assert [sent.error for sent in ask_bls(server, text_input=b"the", max_tokens=3)] == [None]


def test_a_request_within_its_timeout_is_answered(server: Server) -> None:
    request = prompt(PROMPT, request_output_len=3, end_id=-1)
    request.timeout_us = 60_000_000

    [sent] = server.run("tensorrt_llm", request)

    assert (sent.error, sent.final) == (None, True)
