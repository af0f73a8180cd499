"""tensorrt_llm: what it answers is what the scheduler generates, cut and flagged as upstream does."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from engines.reference import Event, Sampling, Scheduler
from tests.contract.asking import prompt, tensors, tokens
from tests.contract.conftest import Engine
from tests.contract.fake_triton import TIMEOUT_S, MetricFamily, Request, Server
from tests.support.patience import wait_until

PROMPT = [10, 20, 30, 40]


@pytest.fixture(scope="module")
def greedy(engine: Engine) -> Iterator[list[int]]:
    """Twelve greedy tokens after PROMPT, from a scheduler of our own."""
    scheduler = Scheduler(engine[0], num_threads=1)
    found: list[int] = []
    ended = threading.Event()

    def take(event: Event) -> None:
        found.extend(event.token_ids)
        if event.finished:
            ended.set()

    scheduler.submit(PROMPT, Sampling(max_tokens=12, end_id=-1), take)
    assert ended.wait(TIMEOUT_S)
    yield found
    scheduler.close()


def ask(server: Server, **values: object) -> list[list[int]]:
    return tokens(list(server.run("tensorrt_llm", prompt(PROMPT, end_id=-1, **values))))


def test_without_streaming_all_tokens_come_in_one_final_response(server: Server, greedy: list[int]) -> None:
    [sent] = server.run("tensorrt_llm", prompt(PROMPT, request_output_len=12, end_id=-1))

    assert sent.final
    assert {name: values.tolist() for name, values in sent.tensors.items()} == {
        "output_ids": [[greedy]],
        "sequence_length": [[12]],
        "batch_index": [[0]],
        "sequence_index": [[0]],
    }


def test_streamed_chunks_are_new_tokens_and_the_last_one_is_final(server: Server, greedy: list[int]) -> None:
    answers = list(
        server.run("tensorrt_llm", prompt(PROMPT, request_output_len=12, end_id=-1, streaming=True))
    )

    chunks = tokens(answers)
    assert [token for chunk in chunks for token in chunk] == greedy
    assert len(chunks) > 1
    assert [sent.final for sent in answers] == [False] * (len(answers) - 1) + [True]
    assert [sent.tensors["sequence_length"].tolist() for sent in answers] == [[[len(c)]] for c in chunks]


def test_the_prompt_is_included_when_it_is_not_excluded(server: Server, greedy: list[int]) -> None:
    included = ask(server, request_output_len=12, exclude_input_in_output=False)

    assert included == [PROMPT + greedy]


def test_a_stream_never_includes_the_prompt(server: Server, greedy: list[int]) -> None:
    chunks = ask(server, request_output_len=12, exclude_input_in_output=False, streaming=True)

    assert [token for chunk in chunks for token in chunk] == greedy


def test_an_end_token_ends_the_answer_and_is_not_in_it(server: Server, greedy: list[int]) -> None:
    end_id = greedy[5]
    expected = greedy[: greedy.index(end_id)]

    [sent] = server.run("tensorrt_llm", prompt(PROMPT, request_output_len=12, end_id=end_id))

    assert tokens([sent]) == [expected]


def test_stop_words_end_the_answer_and_stay_in_it(server: Server, greedy: list[int]) -> None:
    stop_words = [[greedy[2], greedy[3]], [2, -1]]

    assert ask(server, request_output_len=12, stop_words_list=stop_words) == [greedy[:4]]


def test_a_bad_word_does_not_appear(server: Server, greedy: list[int]) -> None:
    [answer] = ask(server, request_output_len=12, bad_words_list=[[greedy[0]], [1]])

    assert greedy[0] not in answer


def test_a_batch_gives_one_response_an_item_with_its_index(server: Server, greedy: list[int]) -> None:
    inputs = tensors(
        "tensorrt_llm",
        input_ids=[[*PROMPT, 0], [10, 20, 30, 40, 50]],
        input_lengths=[[4], [5]],
        request_output_len=[[12], [3]],
        end_id=[[-1], [-1]],
        exclude_input_in_output=[[True], [True]],
    )
    answers = {int(s.tensors["batch_index"][0, 0]): s for s in server.run("tensorrt_llm", Request(inputs))}

    assert tokens([answers[0]]) == [greedy]
    assert [len(ids) for ids in tokens([answers[1]])] == [3]
    assert sorted(sent.final for sent in answers.values()) == [False, True]


def test_in_a_batch_only_the_bad_item_is_refused(server: Server, greedy: list[int]) -> None:
    inputs = tensors(
        "tensorrt_llm",
        input_ids=[PROMPT, PROMPT],
        input_lengths=[[4], [4]],
        request_output_len=[[0], [12]],
        end_id=[[-1], [-1]],
        exclude_input_in_output=[[True], [True]],
    )
    answers = list(server.run("tensorrt_llm", Request(inputs)))

    assert [(sent.error, sent.final) for sent in answers] == [
        (None, False),
        ("batch item 0: max_tokens (request_output_len): found 0, expected 1 or more", True),
    ]
    assert tokens(answers) == [greedy]


def test_all_bad_items_of_a_batch_are_told_in_one_final_error(server: Server) -> None:
    inputs = tensors(
        "tensorrt_llm",
        input_ids=[PROMPT, PROMPT],
        input_lengths=[[4], [4]],
        request_output_len=[[3], [3]],
        runtime_top_k=[[-1], [1]],
        beam_width=[[1], [2]],
    )
    [sent] = server.run("tensorrt_llm", Request(inputs))

    assert sent.final
    assert sent.error is not None
    assert "batch item 0: top_k (runtime_top_k): found -1" in sent.error
    assert "batch item 1: beam_width: beam search is not supported" in sent.error


def test_return_sequences_have_indices_and_seeds_of_their_own(server: Server) -> None:
    sampling = {"request_output_len": 8, "runtime_top_k": 50, "temperature": 2.0, "seed": 7}
    answers = list(server.run("tensorrt_llm", prompt(PROMPT, num_return_sequences=3, end_id=-1, **sampling)))
    by_index = {int(sent.tensors["sequence_index"][0, 0]): tokens([sent])[0] for sent in answers}

    assert sorted(by_index) == [0, 1, 2]
    assert by_index[0] == ask(server, **sampling)[0]
    assert by_index[1] == ask(server, **{**sampling, "seed": 8})[0]
    assert by_index[0] != by_index[1]


def test_log_probs_sum_to_the_cumulative_one_chunk_by_chunk(server: Server) -> None:
    request = prompt(PROMPT, request_output_len=8, end_id=-1, streaming=True, return_log_probs=True)
    answers = list(server.run("tensorrt_llm", request))

    so_far = 0.0
    for sent, chunk in zip(answers, tokens(answers), strict=True):
        log_probs = sent.tensors["output_log_probs"][0, 0].tolist()
        so_far += sum(log_probs)
        assert len(log_probs) == len(chunk)
        assert float(sent.tensors["cum_log_probs"][0, 0]) == pytest.approx(so_far, abs=1e-4)
    assert so_far < 0


def test_counts_and_times_are_returned_when_asked_for(server: Server) -> None:
    request = prompt(
        PROMPT,
        request_output_len=3,
        end_id=-1,
        return_perf_metrics=True,
        return_num_input_tokens=True,
        return_num_output_tokens=True,
    )
    [sent] = server.run("tensorrt_llm", request)
    found = {name: values.item() for name, values in sent.tensors.items() if values.size == 1}

    assert (found["num_input_tokens"], found["num_output_tokens"]) == (4, 3)
    assert found["arrival_time_ns"] <= found["first_token_time_ns"] < found["last_token_time_ns"]


REFUSED = [
    ({"request_output_len": 0}, "max_tokens (request_output_len): found 0, expected 1 or more"),
    ({"request_output_len": -3}, "max_tokens (request_output_len): found -3, expected 1 or more"),
    ({"runtime_top_k": -1}, "top_k (runtime_top_k): found -1, expected 0 or more"),
    ({"runtime_top_p": 1.5}, "top_p (runtime_top_p): found 1.5, expected 0 to 1"),
    ({"temperature": -1.0}, "temperature: found -1.0, expected 0 or more"),
    ({"temperature": np.nan}, "temperature: found nan"),
    ({"end_id": 320}, "end_id: found 320, expected a token below 320, or -1 for none"),
    ({"num_return_sequences": 0}, "num_return_sequences: found 0, expected 1 to 4"),
    ({"num_return_sequences": 5}, "num_return_sequences: found 5, expected 1 to 4"),
    ({"input_lengths": 5}, "input_lengths: found 5, expected 0 to the 4 input_ids given"),
    ({"input_lengths": 0}, "text_input (input_ids): is empty"),
    ({"input_ids": [1, 2, 3, 999]}, "text_input (input_ids): token ids [999] are outside"),
    ({"request_output_len": 400}, "max_tokens (request_output_len): 4 prompt tokens + 400 output tokens"),
    ({"stop_words_list": [[1, 2], [2, 1]]}, "stop_words (stop_words_list): word ends [2, 1] do not rise"),
    ({"beam_width": 2}, "beam_width: beam search is not supported by the reference runtime"),
    ({"lora_task_id": 1}, "lora_task_id: LoRA is not supported"),
    ({"return_context_logits": True}, "return_context_logits: returning logits is not supported"),
]


@pytest.mark.parametrize(
    ("values", "message"), REFUSED, ids=[message.split(":")[0] for _, message in REFUSED]
)
def test_a_bad_field_is_named_and_the_next_request_is_answered(
    server: Server, greedy: list[int], values: dict[str, object], message: str
) -> None:
    good = {"input_ids": PROMPT, "input_lengths": 4, "request_output_len": 12, "end_id": -1}
    bad = Request(tensors("tensorrt_llm", **{**good, **values}))

    [sent] = server.run("tensorrt_llm", bad)

    assert sent.error is not None
    assert sent.error.startswith(message)
    assert sent.final
    assert ask(server, request_output_len=12) == [greedy]


def test_a_cancelled_request_frees_its_slot(server: Server) -> None:
    request = prompt(PROMPT, request_output_len=300, end_id=-1, streaming=True)
    server.start("tensorrt_llm", request)
    request.sender.sent.get(timeout=TIMEOUT_S)
    assert active() == 1

    request.sender.cancelled = True
    answers = list(request.sender.until_final())

    assert sum(len(chunk) for chunk in tokens(answers)) < 299
    wait_until(lambda: active() == 0)


def test_stop_ends_the_request_with_that_id_and_no_other(server: Server) -> None:
    stopped, other = (prompt(PROMPT, request_output_len=300, end_id=-1, streaming=True) for _ in range(2))
    stopped.id, other.id = "a", "b"
    for request in (stopped, other):
        server.start("tensorrt_llm", request)
        request.sender.sent.get(timeout=TIMEOUT_S)

    stop = prompt([1], request_output_len=1, stop=True)
    stop.id = "a"
    [answer] = server.run("tensorrt_llm", stop)

    assert (answer.error, answer.tensors, answer.final) == (None, {}, True)
    assert sum(map(len, tokens(list(stopped.sender.until_final())))) < 299
    assert sum(map(len, tokens(list(other.sender.until_final())))) >= 290


def test_stop_without_an_id_is_an_error_and_an_unknown_id_is_not(server: Server) -> None:
    nameless = prompt([1], request_output_len=1, stop=True)
    unknown = prompt([1], request_output_len=1, stop=True)
    unknown.id = "nobody"

    [refused] = server.run("tensorrt_llm", nameless)
    [accepted] = server.run("tensorrt_llm", unknown)

    assert refused.error is not None
    assert refused.error.startswith("stop: the request has no id")
    assert (accepted.error, accepted.final) == (None, True)


def test_the_gauges_show_slots_and_what_is_in_flight(server: Server) -> None:
    requests = [prompt(PROMPT, request_output_len=200, end_id=-1, streaming=True) for _ in range(6)]
    for request in requests:
        server.start("tensorrt_llm", request)

    wait_until(lambda: (gauge("active"), gauge("waiting"), gauge("max")) == (4, 2, 4))

    for request in requests:
        request.sender.cancelled = True
    for request in requests:
        list(request.sender.until_final())
    wait_until(lambda: (gauge("active"), gauge("waiting")) == (0, 0))


def active() -> float:
    return gauge("active")


def gauge(kind: str) -> float:
    labels = {"model": "tensorrt_llm", "version": "1", "request_type": kind}
    named = [one for one in MetricFamily.families if one.name == "nv_trt_llm_request_metrics"]
    return named[-1].gauges[tuple(sorted(labels.items()))].value


def test_a_scheduler_that_dies_answers_its_requests_and_ends_the_process(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    died = threading.Event()

    def end(status: int) -> None:
        ended.append(status)
        died.set()

    monkeypatch.setattr(os, "_exit", end)
    scheduler = server.models["tensorrt_llm"]._scheduler._scheduler

    def fail(*arguments: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(scheduler, "_step", fail)
    [sent] = server.run("tensorrt_llm", prompt(PROMPT, request_output_len=12))
    assert sent.error is not None
    assert "Too many open files" in sent.error
    assert died.wait(TIMEOUT_S)
    assert ended == [1]


@pytest.mark.parametrize("model", ["tensorrt_llm", "tensorrt_llm_bls"])
def test_a_request_that_cannot_be_read_is_refused_and_the_one_after_it_in_the_call_is_answered(
    server: Server, model: str
) -> None:
    asked = {
        "tensorrt_llm": lambda: prompt(PROMPT, request_output_len=3),
        "tensorrt_llm_bls": lambda: Request(tensors("tensorrt_llm_bls", text_input=b"hello", max_tokens=3)),
    }[model]
    broken, good = Request({"input_ids": np.zeros((), np.int32)}), asked()
    server.models[model].execute([broken, good])
    [refused] = broken.sender.until_final()
    assert refused.error is not None
    assert "could not be read" in refused.error
    assert list(good.sender.until_final())[-1].error is None
