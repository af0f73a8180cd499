"""Text in, text out: the ensemble's members and tensorrt_llm_bls say the same, streamed and not."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.contract.asking import ask_bls, ask_members, tensors, texts
from tests.contract.conftest import RUNTIME, Render, loaded
from tests.contract.fake_triton import TIMEOUT_S, Request, Sent, Server
from tests.contract.test_generation import active
from tests.support.patience import wait_until
from tests.support.tiny_engine import write_tiny_engine
from tpforge.manifest import EngineBuild
from tpforge.repository_options import TensorrtOptions
from triton_repo.render.tensorrt import render_tensorrt

PROMPTS = ("the capital of France", "日本語 🎉 café", " two  spaces", "x")
ASKS = {"ensemble": ask_members, "tensorrt_llm_bls": ask_bls}


@pytest.fixture(params=list(ASKS))
def ask(request: pytest.FixtureRequest, server: Server) -> Any:
    return lambda **values: ASKS[request.param](server, **values)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_streamed_text_is_the_text_that_is_not_streamed(ask: Any, prompt: str) -> None:
    whole = texts(ask(text_input=prompt.encode(), max_tokens=60, end_id=-1))
    chunks = texts(ask(text_input=prompt.encode(), max_tokens=60, end_id=-1, stream=True))

    assert len(whole) == 1
    assert len(chunks) > 10
    assert "".join(chunks) == whole[0]
    assert len(whole[0]) > 10


def test_the_ensemble_and_bls_give_the_same_text(server: Server) -> None:
    values = {"text_input": b"of the", "max_tokens": 40, "end_id": -1, "top_k": 20, "seed": 5}

    assert texts(ask_members(server, **values)) == texts(ask_bls(server, **values))


def test_text_that_includes_the_prompt_starts_with_it(ask: Any) -> None:
    [text] = texts(ask(text_input=b" the capital", max_tokens=5, end_id=-1, exclude_input_in_output=False))
    [rest] = texts(ask(text_input=b" the capital", max_tokens=5, end_id=-1))

    assert text == " the capital" + rest


def test_a_batch_is_answered_item_by_item(ask: Any) -> None:
    prompts = [b"the", b"a", b"of France"]
    alone = [texts(ask(text_input=prompt, max_tokens=8, end_id=-1))[0] for prompt in prompts]
    answers = ask(text_input=[[prompt] for prompt in prompts], max_tokens=[[8]] * 3, end_id=[[-1]] * 3)

    assert {index(sent): texts([sent])[0] for sent in answers} == dict(enumerate(alone))
    assert [sent.final for sent in answers] == [False, False, True]


def test_compiled_engines_are_told_of_one_end_token_and_stop_at_the_others(tmp_path: Path) -> None:
    """The tokenizer's own comes first, as upstream's preprocessing has it."""
    engine, manifest, _ = write_tiny_engine(tmp_path, config_extra={"eos_token_id": [258, 256, 97]})
    build = EngineBuild(trtllm="1.2.1", tensorrt="10", cuda="13", arguments={}, command=("x",))
    manifest = manifest.model_copy(update={"runtime": "tensorrt", "engine_build": build})
    options = TensorrtOptions(stand_in=True)
    repository = render_tensorrt(
        engine, manifest, out=tmp_path / "repository", runtime_source=RUNTIME, options=options
    ).path
    asked = {"QUERY": b"the", "REQUEST_OUTPUT_LEN": 4, "STOP_WORDS_DICT": [b"b"]}
    with loaded(repository, models=("preprocessing",)) as server:
        found = next(server.run("preprocessing", Request(tensors("preprocessing", **asked)))).tensors
        own = tensors("preprocessing", **asked, END_ID=7)
        other = next(server.run("preprocessing", Request(own))).tensors
    assert (found["OUT_END_ID"].tolist(), other["OUT_END_ID"].tolist()) == ([[256]], [[7]])
    [word] = other["STOP_WORDS_IDS"][0, 0].tolist()
    assert found["STOP_WORDS_IDS"].tolist() == [[[word, 258, 97], [1, 2, 3]]]


def test_stop_words_are_text(ask: Any) -> None:
    [text] = texts(ask(text_input=b"the", max_tokens=60, end_id=-1))
    stop = text[20]
    [stopped] = texts(ask(text_input=b"the", max_tokens=60, end_id=-1, stop_words=[stop.encode(), b""]))

    assert stopped == text[: text.index(stop) + 1]


REFUSED = [
    ({"text_input": b""}, "text_input (QUERY): is empty, expected text"),
    ({"text_input": b"ab\xff"}, "text_input (QUERY): byte 2 is not valid UTF-8"),
    ({"text_input": b"z" * 257}, "text_input (QUERY): has 257 tokens, more than max_input_len 256"),
    ({"text_input": b"z" * 10_000_000}, "text_input (QUERY): has 10000000 bytes, which cannot fit"),
    ({"max_tokens": 0}, "max_tokens (REQUEST_OUTPUT_LEN): found 0, expected 1 or more"),
    ({"max_tokens": 320}, "max_tokens (REQUEST_OUTPUT_LEN): 1 prompt tokens + 320 output tokens are more"),
    ({"top_k": -1}, "top_k (runtime_top_k): found -1, expected 0 or more"),
    ({"temperature": -0.5}, "temperature: found -0.5, expected 0 or more"),
    ({"stop_words": [b"\xff"]}, "stop_words (STOP_WORDS_DICT): byte 0 is not valid UTF-8"),
    ({"guided_decoding_guide": b"{}"}, "guided_decoding_guide: guided decoding is not supported"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED])
def test_a_bad_field_is_named_by_the_users_name_for_it(
    ask: Any, values: dict[str, Any], message: str
) -> None:
    good = {"text_input": b"x", "max_tokens": 3, "end_id": -1}

    [sent] = ask(**{**good, **values})

    assert sent.error is not None
    assert sent.error.startswith(message)
    assert len(texts(ask(**good))) == 1


def test_bls_answers_the_other_prompts_of_a_batch(server: Server) -> None:
    answers = ask_bls(server, text_input=[[b"a"], [b""]], max_tokens=[[3], [3]], end_id=[[-1], [-1]])

    assert {sent.error for sent in answers} == {
        None,
        "batch item 1: text_input (QUERY): is empty, expected text",
    }
    assert len(texts(answers)) == 1
    assert answers[-1].final


def test_bls_refuses_what_upstream_has_and_the_reference_runtime_has_not(server: Server) -> None:
    [sent] = ask_bls(
        server, text_input=b"x", max_tokens=1, image_url_input=b"http://x/y.png", num_draft_tokens=2
    )

    assert sent.error == (
        "image_url_input: image and video input is not supported by the reference runtime; "
        "leave it out, or give an empty text; "
        "num_draft_tokens: speculative decoding is not supported by the reference runtime; "
        "leave it out, or give 0"
    )


def test_bls_accumulates_tokens_when_configured(render_tiny: Render) -> None:
    with loaded(render_tiny(accumulate_tokens=True)) as server:
        values = {"text_input": b"the", "max_tokens": 20, "end_id": -1}
        [whole] = texts(ask_bls(server, **values))
        streamed = texts(ask_bls(server, **values, stream=True))

    assert streamed[-1] == whole
    assert all(later.startswith(sooner) for sooner, later in pairwise(streamed))


def test_cancelling_bls_stops_the_generation_behind_it(server: Server) -> None:
    values = {"text_input": b"the", "max_tokens": 300, "end_id": -1, "stream": True}
    request = Request(tensors("tensorrt_llm_bls", **values), id="same")
    other = Request(tensors("tensorrt_llm_bls", **values), id="same")
    for started in (request, other):
        server.start("tensorrt_llm_bls", started)
        started.sender.sent.get(timeout=TIMEOUT_S)
    wait_until(lambda: active() == 2)

    request.sender.cancelled = True

    wait_until(lambda: active() == 1)
    assert len(list(other.sender.until_final())) > len(list(request.sender.until_final()))


def test_without_decoupling_there_is_exactly_one_response(render_tiny: Render) -> None:
    with loaded(render_tiny(decoupled=False)) as server:
        [answer] = ask_bls(server, text_input=b"the", max_tokens=5, end_id=-1)
        [streamed] = ask_bls(server, text_input=b"the", max_tokens=5, stream=True)
        [batch] = ask_bls(server, text_input=[[b"a"], [b"b"]], max_tokens=[[1], [1]])

    assert len(texts([answer])) == 1
    assert streamed.error == (
        "stream (streaming): Streaming is only supported if model is deployed using decoupled mode."
    )
    assert batch.error == "text_input: holds 2 prompts; a batch needs the decoupled mode"


def index(sent: Sent) -> int:
    return int(sent.tensors["batch_index"].flat[0])
