"""Stop and bad words are texts: honoured wherever they appear, alike in every model, streamed and whole.

The answers are those of a tiny engine; what they must be is found in its text without stop words.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.contract.asking import ask_bls, ask_members, prompt, texts, tokens
from tests.contract.conftest import Render, loaded
from tests.contract.fake_triton import InferenceResponse, Server, Tensor
from tests.contract.test_generation import active
from tests.support.patience import wait_until

PROMPTS = (b"the", b"of France", " 日本語".encode())
NUM_TOKENS = 60
ASKS = {"ensemble": ask_members, "tensorrt_llm_bls": ask_bls}


@pytest.fixture(scope="module")
def shared(engine: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all of it; nothing here changes what it is."""
    from tests.contract.conftest import RUNTIME
    from tpforge.repository_options import ReferenceOptions
    from triton_repo.render.repository import render

    folder, manifest = engine
    out = tmp_path_factory.mktemp("words") / "repository"
    options = ReferenceOptions(num_threads=1, cancellation_check_period_ms=5, stats_check_period_ms=1)
    path = render(folder, manifest, out=out, runtime_source=RUNTIME, options=options).path
    with loaded(path) as server:
        yield server


def pieces(server: Server, text_input: bytes) -> list[str]:
    """The answer without words, as it is streamed."""
    answers = ask_members(server, text_input=text_input, max_tokens=NUM_TOKENS, end_id=-1, stream=True)
    return [piece for piece in texts(answers) if piece]


def clean(words: Iterator[str]) -> str | None:
    """The first word that can be spelled: not cut out of a broken character, not at the very beginning."""
    return next((word for word in words if word and "\ufffd" not in word), None)


def spaced(given: list[str]) -> Iterator[str]:
    return (piece for piece in given[2:] if piece.startswith(" ") and len(piece) > 2)


def of_two(given: list[str], *, count: int = 2) -> Iterator[str]:
    return ("".join(given[place : place + count]) for place in range(2, len(given) - count))


KINDS: dict[str, Any] = {
    "a piece with its space": spaced,
    "a piece without its space": lambda given: (piece[1:] for piece in spaced(given)),
    "the beginning of a piece": lambda given: (piece[:-1] for piece in spaced(given)),
    "the middle of a piece": lambda given: (piece[1:-1] for piece in spaced(given)),
    "the end of a piece": lambda given: (piece[-1:] for piece in spaced(given)),
    "two pieces": of_two,
    "three pieces": lambda given: of_two(given, count=3),
    "the end of a piece and the beginning of the next": lambda given: (
        first[-1] + second[0] for first, second in pairwise(given[2:]) if len(second) > 1
    ),
    "a character of several bytes": lambda given: (
        letter for piece in given[2:] for letter in piece if ord(letter) > 0x7F
    ),
    "a character of several bytes and what follows": lambda given: (
        first[-1] + second[0] for first, second in pairwise(given[1:]) if ord(first[-1]) > 0x7F
    ),
    "a control character": lambda given: (letter for piece in given[2:] for letter in piece if letter < " "),
}


def stopped_at(text: str, words: list[str]) -> str:
    """The text up to the first word that is complete, the word included."""
    return text[: min(text.index(word) + len(word) for word in words if word in text)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_ends_the_answer_wherever_it_lies_in_the_tokens(shared: Server, kind: str) -> None:
    found = 0
    for text_input in PROMPTS:
        given = pieces(shared, text_input)
        word = clean(KINDS[kind](given))
        if word is None:
            continue
        found += 1
        expected = stopped_at("".join(given), [word])
        asked = {"text_input": text_input, "max_tokens": NUM_TOKENS, "end_id": -1}
        for ask in ASKS.values():
            whole = ask(shared, **asked, stop_words=[b"", word.encode()])
            streamed = ask(shared, **asked, stop_words=[word.encode()], stream=True)
            assert texts(whole) == [expected]
            assert "".join(texts(streamed)) == expected
            assert [sent.final for sent in streamed].count(True) == 1
    assert found, f"no answer of the tiny engine has {kind}"
    wait_until(lambda: active() == 0)


def test_of_several_words_the_one_that_is_complete_first_counts(shared: Server) -> None:
    given = pieces(shared, b"the")
    early, late = clean(spaced(given)), clean(reversed(list(spaced(given))))
    assert early is not None and late is not None
    expected = stopped_at("".join(given), [early, late])

    for ask in ASKS.values():
        for words in ([early, late], [late, early], ["never said", early]):
            asked = [word.encode() for word in words]
            answers = ask(shared, text_input=b"the", max_tokens=NUM_TOKENS, end_id=-1, stop_words=asked)
            assert texts(answers) == [expected]


def test_words_of_the_prompt_end_nothing(shared: Server) -> None:
    asked = {"text_input": b"of France", "max_tokens": 4, "end_id": -1, "exclude_input_in_output": False}

    for ask in ASKS.values():
        assert texts(ask(shared, **asked, stop_words=[b"France"])) == texts(ask(shared, **asked))


def test_each_item_and_sequence_ends_at_its_own_word(shared: Server) -> None:
    given = {text_input: pieces(shared, text_input) for text_input in PROMPTS[:2]}
    words = {text_input: clean(of_two(one)) for text_input, one in given.items()}
    expected = [
        stopped_at("".join(given[one]), [word for word in (words[one],) if word]) for one in PROMPTS[:2]
    ]
    for ask in ASKS.values():
        answers = ask(
            shared,
            text_input=[[one] for one in PROMPTS[:2]],
            max_tokens=[[NUM_TOKENS]] * 2,
            end_id=[[-1]] * 2,
            stop_words=[[(words[one] or "").encode()] for one in PROMPTS[:2]],
        )
        found = {int(sent.tensors["batch_index"][0][0]): texts([sent])[0] for sent in answers}
        assert [found[0], found[1]] == expected


def test_log_probabilities_and_counts_are_those_of_the_answer_that_was_cut(shared: Server) -> None:
    given = pieces(shared, b"the")
    word = clean(piece[1:-1] for piece in spaced(given))
    assert word is not None
    flags = {"return_log_probs": True, "return_num_output_tokens": True}
    answers = ask_members(
        shared,
        text_input=b"the",
        max_tokens=NUM_TOKENS,
        end_id=-1,
        stop_words=[word.encode()],
        stream=True,
        **flags,
    )
    counted = sum(sent.tensors["output_log_probs"].size for sent in answers)

    assert counted == sum(int(sent.tensors["num_output_tokens"][0][0]) for sent in answers)
    assert float(answers[-1].tensors["cum_log_probs"][0][0]) == pytest.approx(
        sum(float(sent.tensors["output_log_probs"].sum()) for sent in answers), abs=1e-4
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_word_appears_nowhere(shared: Server, kind: str) -> None:
    found = 0
    for text_input in PROMPTS:
        given = pieces(shared, text_input)
        word = clean(KINDS[kind](given))
        if word is None:
            continue
        found += 1
        for ask in ASKS.values():
            [text] = texts(
                ask(
                    shared, text_input=text_input, max_tokens=NUM_TOKENS, end_id=-1, bad_words=[word.encode()]
                )
            )
            assert word not in text
            assert text[:1] == "".join(given)[:1]
    assert found, f"no answer of the tiny engine has {kind}"


def test_words_given_as_tokens_are_honoured_as_tokens_too(shared: Server) -> None:
    asked = {"request_output_len": 12, "end_id": -1}
    [greedy] = tokens(list(shared.run("tensorrt_llm", prompt((10, 20, 30, 40), **asked))))
    stop = greedy[5]
    [cut] = tokens(
        list(shared.run("tensorrt_llm", prompt((10, 20, 30, 40), **asked, stop_words_list=[[stop], [1]])))
    )

    assert cut == greedy[: greedy.index(stop) + 1]


def test_the_calling_model_looks_for_words_itself_where_the_backend_knows_tokens_alone(
    render_tiny: Render,
) -> None:
    """TensorRT-LLM's C++ backend goes on: the stream ends at the word, and the backend is told to stop."""
    stops: list[None] = []
    letters = "one two three four five"

    def backend(*, whole: bool) -> Iterator[InferenceResponse]:
        runs = [[ord(letter) for letter in letters]] if whole else [[ord(letter)] for letter in letters]
        for run in runs:
            yield InferenceResponse(
                [
                    Tensor("output_ids", np.array([[run]], dtype=np.int32)),
                    Tensor("sequence_length", np.array([[len(run)]], dtype=np.int32)),
                ]
            )

    class Letters:
        @staticmethod
        def decode(ids: Any) -> str:
            return "".join(map(chr, ids))

    with loaded(render_tiny(), models=("postprocessing",)):
        bls = importlib.import_module("serving.bls")

        def text_of(words: list[str], *, streaming: bool, shown: str = "") -> str:
            made = bls.Texts(
                Letters(),
                batch_index=0,
                streaming=streaming,
                accumulate=False,
                stop_words=words,
                prompt=shown,
                num_sequences=1,
                stop=lambda: stops.append(None),
            )
            answers = list(made.answers(backend(whole=not streaming)))
            named = [{one.name(): one.as_numpy() for one in answer.output_tensors()} for answer in answers]
            return "".join(outputs["text_output"][0].decode() for outputs in named)

        assert text_of(["thr", "four"], streaming=True) == "one two thr"
        assert len(stops) == 1
        assert text_of(["thr", "four"], streaming=False) == "one two thr"
        assert text_of(["one", "four"], streaming=False, shown="one two") == "one two three four"
        assert text_of(["six"], streaming=True) == letters
        assert len(stops) == 1
