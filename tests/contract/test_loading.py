"""Models that cannot be loaded say why; exchanges and gauges keep out of Triton's traps."""

from __future__ import annotations

import importlib
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.contract.conftest import Render, load, loaded
from tests.contract.fake_triton import TIMEOUT_S, InferenceResponse, Sender, TritonModelException
from tests.support.tiny import write_tiny_tokenizer


def test_a_missing_engine_is_named(render_tiny: Render) -> None:
    repository = render_tiny(embed_engine=True)
    (repository / "tensorrt_llm/1/engine/engine.json").unlink()

    assert "engine.json: missing" in failure(repository, "tensorrt_llm")


def test_a_missing_rank_file_is_named(render_tiny: Render) -> None:
    repository = render_tiny(embed_engine=True)
    (repository / "tensorrt_llm/1/engine/checkpoint/rank1.safetensors").unlink()

    assert "rank files are missing: rank1.safetensors" in failure(repository, "tensorrt_llm")


def test_an_unreadable_rank_file_is_named(render_tiny: Render) -> None:
    repository = render_tiny(embed_engine=True)
    weights = repository / "tensorrt_llm/1/engine/checkpoint/rank1.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    weights.write_bytes(content[: len(content) // 2])

    assert "rank1.safetensors" in failure(repository, "tensorrt_llm")


def test_another_models_tokenizer_is_refused(render_tiny: Render, tmp_path: Path) -> None:
    repository = render_tiny(embed_engine=True)
    tokenizer = repository / "tensorrt_llm/1/engine/tokenizer"
    shutil.rmtree(tokenizer)
    tokenizer.mkdir()
    write_tiny_tokenizer(tokenizer, vocab_size=320)
    file = tokenizer / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    assert '"Ġthe":' in text
    file.write_text(text.replace('"Ġthe":', '"Ġthe": 999, "Ġthee":'), encoding="utf-8")

    assert "it is another model's tokenizer" in failure(repository, "tensorrt_llm")


def test_a_missing_tokenizer_is_named_by_every_model_that_reads_it(render_tiny: Render) -> None:
    repository = render_tiny(embed_engine=True)
    (repository / "tensorrt_llm/1/engine/tokenizer/tokenizer.json").unlink()

    for model in ("preprocessing", "postprocessing", "tensorrt_llm_bls", "tensorrt_llm"):
        assert "tokenizer.json: missing" in failure(repository, model)


def test_a_queue_that_is_full_refuses(render_tiny: Render) -> None:
    from tests.contract.asking import prompt

    with loaded(render_tiny(max_queue_size=2)) as server:
        requests = [prompt([1, 2], request_output_len=300, end_id=-1, streaming=True) for _ in range(4)]
        for request in requests:
            server.start("tensorrt_llm", request)
            request.sender.sent.get(timeout=TIMEOUT_S)
        queued = [prompt([1, 2], request_output_len=300, end_id=-1) for _ in range(3)]
        for request in queued:
            server.start("tensorrt_llm", request)
        refused = queued[-1].sender.sent.get(timeout=TIMEOUT_S)
        for request in requests + queued[:2]:
            request.sender.cancelled = True
            list(request.sender.until_final())

    # tensorrtllm_backend, tools/inflight_batcher_llm/test_max_queue_size.py looks for the first four words.
    said = "Maximum queue size of 2 has been reached: 2 requests wait; try again in about 10 s"
    assert refused.error == said
    assert (refused.final, refused.code) == (True, "UNAVAILABLE")


def test_a_queue_that_is_full_refuses_through_bls_with_the_same_status(render_tiny: Render) -> None:
    from tests.contract.asking import ask_bls, prompt

    with loaded(render_tiny(max_queue_size=1)) as server:
        requests = [prompt([1, 2], request_output_len=300, end_id=-1, streaming=True) for _ in range(4)]
        for request in requests:
            server.start("tensorrt_llm", request)
            request.sender.sent.get(timeout=TIMEOUT_S)
        queued = prompt([1, 2], request_output_len=300, end_id=-1)
        server.start("tensorrt_llm", queued)
        [refused] = ask_bls(server, text_input=b"hello", max_tokens=3)
        for request in [*requests, queued]:
            request.sender.cancelled = True
            list(request.sender.until_final())

    assert (refused.error or "").startswith("Maximum queue size of 1 has been reached: 1 requests wait; try")
    assert refused.code == "UNAVAILABLE"


@pytest.fixture
def exchange_class(render_tiny: Render) -> Any:
    with loaded(render_tiny(), models=("postprocessing",)):
        yield importlib.import_module("serving.exchange").Exchange


def test_the_last_of_several_sequences_is_final(exchange_class: Any) -> None:
    sender = Sender()
    exchange = exchange_class(sender, "id", num_open=2)

    exchange.end(None)
    assert not exchange.done
    exchange.end(None)

    assert exchange.done
    assert [sent.final for sent in sender.until_final()] == [True]


def test_an_ended_request_is_never_asked_whether_it_is_cancelled(exchange_class: Any) -> None:
    sender = Sender()
    sender.cancelled = True
    exchange = exchange_class(sender, "id", num_open=1)

    assert exchange.is_cancelled()
    exchange.end(None)
    assert not exchange.is_cancelled()


def test_a_send_that_hangs_is_seen_and_does_not_hang_the_watch(exchange_class: Any) -> None:
    release = threading.Event()

    class Stuck(Sender):
        def send(self, response: Any = None, flags: int = 0) -> None:
            release.wait(TIMEOUT_S)

    exchange = exchange_class(Stuck(), "id", num_open=1)
    assert exchange.sending_s == 0
    thread = threading.Thread(target=exchange.send, args=(None,))
    thread.start()
    while exchange.sending_s < 0.05:
        assert not exchange.is_cancelled()
    release.set()
    thread.join()

    assert exchange.sending_s == 0


def failure(repository: Path, model: str) -> str:
    with loaded(repository, models=()), pytest.raises(TritonModelException) as failed:
        load(repository, model)
    return str(failed.value)


def test_a_failure_after_answers_is_told_once_they_have_arrived(exchange_class: Any) -> None:
    """An ensemble would lose the answers that are still on their way through it."""
    sender = Sender()
    exchange = exchange_class(sender, "id", num_open=2)

    exchange.fail("no")
    exchange.end(InferenceResponse([]))
    asked = (exchange.done, exchange.is_cancelled())
    answers = list(sender.until_final())

    assert asked == (False, False)
    assert [(sent.error, sent.final) for sent in answers] == [(None, False), ("no", True)]
    assert exchange.done


def test_a_failure_after_answers_reaches_a_calling_model_as_a_response_that_is_no_error(
    exchange_class: Any,
) -> None:
    """Triton 2.51 does not deliver a later error to a model that calls another."""
    relay = importlib.import_module("serving.relay")
    sender = Sender()
    exchange = exchange_class(sender, f"id{relay.SEPARATOR}7", num_open=1)

    exchange.send(InferenceResponse([]))
    exchange.fail("rank 1 ended: naïve 桥")
    _, last = sender.until_final()

    assert last.error is None
    assert relay.failure_of(last.tensors) == "rank 1 ended: naïve 桥"


def test_a_failure_before_any_answer_is_a_plain_error_for_a_calling_model_too(exchange_class: Any) -> None:
    relay = importlib.import_module("serving.relay")
    sender = Sender()

    exchange_class(sender, f"id{relay.SEPARATOR}7", num_open=1).fail("no")

    assert [sent.error for sent in sender.until_final()] == ["no"]


def test_the_caller_raises_what_it_was_told(exchange_class: Any) -> None:
    relay, bls = importlib.import_module("serving.relay"), importlib.import_module("serving.bls")
    tensors = importlib.import_module("serving.tensors")
    texts = bls.Texts(
        SimpleNamespace(decode=str),
        batch_index=0,
        streaming=True,
        accumulate=False,
        stop_words=(),
        prompt="",
        num_sequences=1,
        stop=list,
    )

    with pytest.raises(TritonModelException, match="rank 1 ended"):
        list(texts.answers([tensors.response(relay.failure_tensors("rank 1 ended"))]))


@pytest.mark.parametrize("sending_s", [0.0, 31.0])
@pytest.mark.parametrize("parent", [os.getppid(), -1])
def test_a_stub_ends_when_its_server_is_gone_or_hangs(
    exchange_class: Any, monkeypatch: pytest.MonkeyPatch, sending_s: float, parent: int
) -> None:
    requests = importlib.import_module("serving.requests")
    exits: list[int] = []
    monkeypatch.setattr(requests.os, "_exit", exits.append)
    monkeypatch.setattr(exchange_class, "sending_s", sending_s)
    in_flight = requests.InFlight(cancel=lambda handle: None)
    in_flight.add(exchange_class(Sender(), "id", num_open=1))

    in_flight.exit_when_lost(parent)

    assert exits == ([] if sending_s == 0 and parent == os.getppid() else [1])
