"""inflight_batcher_llm's tensors over the LLM API, which a stand-in plays.

The stand-in has the interface of tensorrt_llm.LLM and is driven by the reference runtime over the same
engine; TensorRT-LLM itself was not run. It must answer what the reference repository answers.
"""

from __future__ import annotations

import asyncio
import json
import math
import sys
import types
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from engines.reference import Sampling, Scheduler
from tests.contract.asking import ask_bls, ask_members, prompt, tensors, texts, tokens
from tests.contract.conftest import RUNTIME, loaded
from tests.contract.fake_triton import Request
from tests.support.tiny_engine import write_tiny_engine
from tpforge.manifest import LlmApi
from tpforge.repository_options import PytorchOptions, ReferenceOptions
from triton_repo.render.front import render_front
from triton_repo.render.repository import TEMPLATES, render

ITERATION = json.loads((Path(__file__).parent / "upstream" / "iteration_stats.json").read_text())
FRONT = TEMPLATES / "pytorch" / "front" / "1"


class Params(dict[str, Any]):
    """The stand-in's SamplingParams: the keywords it was given."""


class Piece:
    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.finish_reason: str | None = None


class Output:
    """The stand-in's RequestOutput: one answer that grows while it is iterated over.

    As in upstream's, the token that ends an answer is in it, and a token to stop at only when asked for.
    """

    def __init__(
        self, scheduler: Scheduler, tokens: list[int], sampling: Sampling, *, keeps_stop: bool
    ) -> None:
        self.outputs, self._end_id, self._keeps_stop = [Piece()], sampling.end_id, keeps_stop
        self._scheduler = scheduler
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[Any] = asyncio.Queue()
        self._handle = scheduler.submit(tokens, sampling, self._put)

    def _put(self, event: Any) -> None:
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def abort(self) -> None:
        self._scheduler.cancel(self._handle)

    async def __aiter__(self) -> AsyncIterator[Output]:
        while True:
            event = await self._events.get()
            if event.error is not None:
                raise RuntimeError(event.error)
            piece = self.outputs[0]
            piece.token_ids.extend(event.token_ids)
            piece.finish_reason = event.finish_reason
            if event.finish_reason == "end_id":
                assert self._end_id is not None
                piece.token_ids.append(self._end_id)
            if event.finish_reason == "stop_words" and not self._keeps_stop:
                piece.token_ids.pop()
            yield self
            if event.finished:
                return


class StandInLlm:
    """tensorrt_llm.LLM's interface over the reference runtime."""

    engine: Path
    arguments: dict[str, Any]
    asked: list[Params]

    def __init__(self, **arguments: Any) -> None:
        StandInLlm.arguments, StandInLlm.asked = arguments, []
        self._scheduler = Scheduler(
            StandInLlm.engine, max_batch_size=arguments["max_batch_size"], num_threads=1
        )

    def generate_async(self, prompt: list[int], params: Params, *, streaming: bool) -> Output:
        assert streaming
        StandInLlm.asked.append(params)
        end_id = -1 if params.get("ignore_eos") else params.get("end_id")
        words = tuple((token,) for token in params.get("stop_token_ids", ()))
        names = ("temperature", "top_k", "top_p", "seed", "min_tokens", "repetition_penalty")
        sampling = Sampling(
            max_tokens=params["max_tokens"],
            end_id=end_id,
            stop_words=words,
            **{name: params[name] for name in names if name in params},
        )
        keeps_stop = bool(params.get("include_stop_str_in_output"))
        return Output(self._scheduler, prompt, sampling, keeps_stop=keeps_stop)

    async def get_stats_async(self, timeout: float) -> AsyncIterator[dict[str, Any]]:
        yield ITERATION["iteration"]
        await asyncio.sleep(timeout)

    def shutdown(self) -> None:
        self._scheduler.close()


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The reference runtime's repository of a tiny engine, and the front's of the same weights."""
    folder = tmp_path_factory.mktemp("front")
    engine, manifest, source = write_tiny_engine(folder, tp_size=2)
    (engine / "model").symlink_to(source)
    (engine / "llm.yaml").write_text("backend: pytorch\nmax_batch_size: 4\n")
    llm = manifest.model_copy(update={"runtime": "pytorch", "llm_api": LlmApi(trtllm="1.2.1", arguments={})})
    often: dict[str, Any] = {"cancellation_check_period_ms": 5, "stats_check_period_ms": 1}
    text = (engine / "llm.yaml").read_text()
    front = render_front(engine, llm, out=folder / "front", options=PytorchOptions(**often), llm_yaml=text)
    own_options = ReferenceOptions(**often, num_threads=1)
    own = render(engine, manifest, out=folder / "own", runtime_source=RUNTIME, options=own_options)
    StandInLlm.engine = engine
    return own.path, front.path


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    package = types.ModuleType("tensorrt_llm")
    package.LLM = StandInLlm  # type: ignore[attr-defined]
    package.SamplingParams = Params  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt_llm", package)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "llm"]:
        del sys.modules[name]


CASES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "streamed": {"stream": True},
    "sampled": {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "seed": 7},
    "penalized": {"repetition_penalty": 1.5, "min_tokens": 3},
    "streamed and sampled": {"stream": True, "temperature": 1.3, "top_p": 0.8, "seed": 3},
    "with the prompt": {"exclude_input_in_output": False},
    "without end": {"end_id": -1},
}


@pytest.mark.parametrize("case", CASES)
def test_the_ensemble_answers_what_the_reference_runtime_answers(
    repositories: tuple[Path, Path], stand_in: None, case: str
) -> None:
    fields = {"text_input": b"The capital of France", "max_tokens": 16, **CASES[case]}
    answers = []
    for repository in repositories:
        with loaded(repository) as server:
            answers.append(texts(ask_members(server, **fields)))
    assert "".join(answers[0]) == "".join(answers[1]) != ""
    assert (len(answers[1]) > 1) == bool(CASES[case].get("stream"))


def test_the_bls_model_streams_the_same_text(repositories: tuple[Path, Path], stand_in: None) -> None:
    fields = {"text_input": b"Hello", "max_tokens": 12, "stream": True}
    found = []
    for repository in repositories:
        with loaded(repository) as server:
            found.append("".join(texts(ask_bls(server, **fields))))
    assert found[0] == found[1] != ""


def test_the_llm_api_gets_model_yaml_and_only_what_a_request_asks_for(
    repositories: tuple[Path, Path], stand_in: None
) -> None:
    with loaded(repositories[1]) as server:
        list(server.run("tensorrt_llm", prompt([10, 20], request_output_len=3, runtime_top_k=0)))
    assert StandInLlm.arguments["backend"] == "pytorch"
    given = {"model", "tokenizer", "backend", "max_batch_size", "enable_iter_perf_stats"}
    assert set(StandInLlm.arguments) == given
    [params] = StandInLlm.asked
    assert params == {"max_tokens": 3, "end_id": params["end_id"]}


def test_words_of_one_token_are_tokens_and_longer_ones_text() -> None:
    sys.path.insert(0, str(FRONT))
    try:
        from llm.sampling import sampling_keywords

        found = sampling_keywords(
            {"max_tokens": 4, "pad_id": 0, "stop_words": ((5,), (6, 7)), "bad_words": ((8,),)},
            end_ids=(2, 3),
            decode=lambda tokens: "-".join(map(str, tokens)),
        )
    finally:
        sys.path.remove(str(FRONT))
    assert found == {
        "max_tokens": 4,
        "pad_id": 0,
        "end_id": 2,
        "stop_token_ids": [5, 3],
        "stop": ["6-7"],
        "include_stop_str_in_output": True,
        "bad_token_ids": [8],
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("words", [{}, {"stop_words_list": [[[300], [1]]]}])
def test_an_answer_ends_before_any_of_the_models_end_tokens(
    tmp_path: Path, stand_in: None, monkeypatch: pytest.MonkeyPatch, stream: bool, words: dict[str, Any]
) -> None:
    engine, manifest, source = write_tiny_engine(tmp_path, tp_size=2)
    options = PytorchOptions()
    (engine / "model").symlink_to(source)
    (engine / "llm.yaml").write_text("backend: pytorch\nmax_batch_size: 4\n")
    llm = manifest.model_copy(update={"runtime": "pytorch", "llm_api": LlmApi(trtllm="1.2.1", arguments={})})
    monkeypatch.setattr(StandInLlm, "engine", engine, raising=False)

    def tokens_with(end_ids: tuple[int, ...]) -> list[int]:
        special = llm.model.special_tokens.model_copy(update={"end_ids": end_ids})
        changed = llm.model_copy(update={"model": llm.model.model_copy(update={"special_tokens": special})})
        out, text = tmp_path / "front", (engine / "llm.yaml").read_text()
        front = render_front(engine, changed, out=out, options=options, llm_yaml=text, force=True)
        with loaded(front.path) as server:
            request = prompt([84, 104, 101], request_output_len=16, streaming=stream, **words)
            return [token for chunk in tokens(server.run("tensorrt_llm", request)) for token in chunk]

    whole = tokens_with(())
    assert len(set(whole)) > 6
    place = next(index for index, token in enumerate(whole) if index > 3 and token not in whole[:index])
    for end_ids in ((whole[place], 256), (256, whole[place])):
        assert tokens_with(end_ids) == whole[:place]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"return_log_probs": True}, "return_log_probs: is not offered over the LLM API"),
        ({"return_perf_metrics": True}, "return_perf_metrics: is not offered over the LLM API"),
        ({"runtime_top_k": -1}, "(runtime_top_k): found -1, expected 0 or more"),
        ({"runtime_top_p": 1.5}, "(runtime_top_p): found 1.5, expected 0 to 1"),
        ({"temperature": math.inf}, "temperature: found inf, expected 0 or more, and finite"),
        ({"presence_penalty": math.nan}, "presence_penalty: found nan"),
        ({"frequency_penalty": -math.inf}, "frequency_penalty: found -inf"),
        ({"repetition_penalty": 0.0}, "repetition_penalty: found 0.0"),
    ],
)
def test_what_the_llm_api_cannot_give_is_refused_by_name(
    repositories: tuple[Path, Path], stand_in: None, fields: dict[str, Any], said: str
) -> None:
    with loaded(repositories[1]) as server:
        [sent] = server.run("tensorrt_llm", prompt([10, 20], request_output_len=3, **fields))
        assert said in (sent.error or "")
        assert StandInLlm.asked == []


def test_a_stopped_request_ends(repositories: tuple[Path, Path], stand_in: None) -> None:
    with loaded(repositories[1]) as server:
        inputs = tensors("tensorrt_llm", input_ids=[10, 20], input_lengths=2, request_output_len=250)
        request = Request({**inputs, **tensors("tensorrt_llm", end_id=-1, streaming=True)}, id="one")
        server.start("tensorrt_llm", request)
        sent = request.sender.until_final()
        next(sent)
        stop = Request(tensors("tensorrt_llm", input_lengths=0, request_output_len=0, stop=True), id="one")
        list(server.run("tensorrt_llm", stop))
        rest = list(sent)
        assert rest[-1].final
        assert sum(len(chunk) for chunk in tokens(rest)) < 240


def test_the_text_models_are_the_same_files(repositories: tuple[Path, Path]) -> None:
    own, front = repositories
    for model in ("preprocessing", "postprocessing", "tensorrt_llm_bls", "ensemble"):
        # What Python compiles beside a model that a test has imported is no file of the repository.
        written = (path for path in (own / model).rglob("*") if path.is_file() and path.suffix != ".pyc")
        for path in sorted(written):
            assert path.read_bytes() == (front / path.relative_to(own)).read_bytes()
    assert not (front / "tensorrt_llm" / "1" / "reference").exists()
