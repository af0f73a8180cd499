"""Checks of what a model answers: the golden answer, streaming, sampling, and where an answer ends.

Each takes the model that is asked, ``ensemble`` or ``tensorrt_llm_bls``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from tpforge.golden import Run, first_run, longest_run, margin_error
from tpforge.manifest import GoldenAnswer
from triton_repo.client.client import Answer
from triton_repo.client.wire import tensor
from triton_repo.smoke.check import OPEN_PROMPT, Failed, Skipped, Target, expect, expect_equal, single

_GOLDEN_TOKENS = 16
_SEEDS = (1, 2, 3)
_SAMPLED_TOKENS = 8


def check_golden_tokens(target: Target) -> None:
    """tensorrt_llm continues all golden prompts, at once, by the tokens that rounding cannot change.

    Where those come after others, the prompt is sent with these behind it.
    """
    golden = _known(target)
    runs = [(answer, longest_run(target.decisive(answer))) for answer in golden]
    runs = [(answer, run) for answer, run in runs if run.count]
    if not runs:
        raise Skipped(_indecisive(target, "no token"))

    def ask(answer: GoldenAnswer, run: Run) -> tuple[int, ...]:
        before = [*answer.prompt_ids, *answer.token_ids[: run.start]]
        return target.continue_tokens([before], num_tokens=min(run.count, _GOLDEN_TOKENS))

    with ThreadPoolExecutor(target.num_clients) as pool:
        for (answer, run), found in zip(runs, pool.map(lambda pair: ask(*pair), runs), strict=True):
            expected = answer.token_ids[run.start :][: min(run.count, _GOLDEN_TOKENS)]
            after = f" after its first {run.start}" if run.start else ""
            expect_equal(found, expected, what=f"tokens of golden prompt {answer.name!r}{after}")


def check_golden_text(target: Target, model: str) -> None:
    """A golden prompt, as text, gets the golden text."""
    golden = _golden(target)[0]
    count = min(first_run(target.decisive(golden)).count, _GOLDEN_TOKENS)
    found = target.client.generate(golden.prompt, max_tokens=count, model=model).text
    if count == len(golden.token_ids):
        expected = golden.text
    else:
        expected = _decoded(target, golden.token_ids[:count])
        whole = expected.rstrip("\ufffd")
        expect(
            golden.text.lstrip().startswith(whole.lstrip()),
            f"postprocessing decodes the golden tokens to {expected!r}, which does not begin {golden.text!r}",
        )
    # A decoder that works on a whole text drops the space that some tokenizers put before it.
    expect_equal(found.lstrip(), expected.lstrip(), what=f"answer to golden prompt {golden.name!r}")


def check_streaming(target: Target, model: str) -> None:
    """The same answer in several responses, in order, the last one marked final, and none after it."""
    ask = target.client.generate
    whole = ask(target.prompt, max_tokens=target.num_tokens, model=model)
    _expect_one_final(whole, what="the answer that is not streamed")
    streamed = ask(target.prompt, max_tokens=target.num_tokens, model=model, stream=True)
    _expect_one_final(streamed, what="the stream")
    expect_equal(streamed.text, whole.text, what="text of the stream joined")
    with_text = [chunk for chunk in streamed.chunks if chunk.text]
    expect(
        len(with_text) > 1 or len(whole.text) < 2,
        f"the stream came as {len(with_text)} response with text, expected one per token",
    )
    not_streamed = [chunk for chunk in whole.chunks if chunk.text]
    expect(
        len(not_streamed) <= 1,
        f"{len(not_streamed)} responses with text to a request that is not streamed, expected 1",
    )


def check_determinism(target: Target, model: str) -> None:
    """The same request without sampling gets the same answer every time."""
    texts = [
        target.client.generate(target.prompt, max_tokens=target.num_tokens, model=model).text
        for _ in range(3)
    ]
    expect(len(set(texts)) == 1, f"the same greedy request got different answers: {sorted(set(texts))}")


def check_seed(target: Target, model: str) -> None:
    """A seed makes a random answer repeatable, and another seed makes another answer."""

    def sample(seed: int) -> str:
        return target.client.generate(
            OPEN_PROMPT, max_tokens=_SAMPLED_TOKENS, model=model, temperature=1.0, top_k=50, seed=seed
        ).text

    first = sample(_SEEDS[0])
    expect_equal(sample(_SEEDS[0]), first, what=f"answer with seed {_SEEDS[0]} the second time")
    # At once: rounding may change what they are, and they need only be others.
    with ThreadPoolExecutor(len(_SEEDS)) as pool:
        texts = [first, *pool.map(sample, _SEEDS[1:])]
    expect(len(set(texts)) > 1, f"seeds {_SEEDS} at temperature 1, top_k 50 all gave {texts[0]!r}")


def check_max_tokens(target: Target, model: str) -> None:
    """An answer has as many tokens as asked for, unless the model ended it; a short one begins a long one."""
    tokens = target.greedy
    texts = [
        target.client.generate(target.prompt, max_tokens=count, model=model).text.rstrip("\ufffd")
        for count in (1, target.num_tokens // 2, target.num_tokens)
    ]
    for shorter, longer in pairwise(texts):
        expect(longer.startswith(shorter), f"max_tokens: {shorter!r} does not begin the longer {longer!r}")
    expect(len(tokens) <= target.num_tokens, f"{len(tokens)} tokens with max_tokens {target.num_tokens}")
    for count in (1, target.num_tokens // 2):
        found = target.greedy_tokens(target.prompt, num_tokens=count)
        expect_equal(found, tokens[:count], what=f"tokens with max_tokens {count}")
    half = _decoded(target, tokens[: target.num_tokens // 2])
    expect_equal(texts[1], half.rstrip("\ufffd"), what=f"text with max_tokens {target.num_tokens // 2}")


def check_end_id(target: Target, model: str) -> None:
    """An answer ends before the token given as end_id."""
    tokens = target.greedy
    place = next((index for index in range(1, len(tokens)) if tokens[index] not in tokens[:index]), None)
    if place is None:
        raise Skipped(f"the greedy answer {tokens} has no second token that could end it")
    found = target.client.generate(
        target.prompt, max_tokens=target.num_tokens, model=model, end_id=tokens[place]
    ).text
    expect_equal(found, _decoded(target, tokens[:place]), what=f"answer with end_id {tokens[place]}")


def check_stop_words(target: Target, model: str) -> None:
    """An answer ends at a stop word, with it or before it, and not anywhere else."""
    tokens = target.greedy
    word, start, length = _find_stop_word(target, tokens, model)
    found = target.client.generate(
        target.prompt, max_tokens=target.num_tokens, model=model, stop_words=[word]
    ).text
    allowed = [_decoded(target, tokens[:end]) for end in (start, start + length)]
    expect(found in allowed, f"answer with stop word {word!r}: {found!r}, expected one of {allowed}")
    never = "\u0001never said\u0001"
    unstopped = target.client.generate(
        target.prompt, max_tokens=target.num_tokens, model=model, stop_words=[never]
    ).text
    expect_equal(unstopped, _decoded(target, tokens), what="answer with a stop word that does not occur")


def _find_stop_word(target: Target, tokens: tuple[int, ...], model: str) -> tuple[str, int, int]:
    """A piece of the answer, best from its middle, whose own tokens are in it: text, first place, length."""
    streamed = target.client.generate(target.prompt, max_tokens=target.num_tokens, model=model, stream=True)
    middle = len(streamed.chunks) // 2
    for chunk in (*streamed.chunks[middle:], *streamed.chunks[:middle]):
        word = chunk.text
        if not word.strip():
            continue
        ids = _stop_word_ids(target, word)
        places = range(len(tokens) - len(ids)) if ids else range(0)
        first = next((place for place in places if tokens[place : place + len(ids)] == ids), None)
        if first:  # At place 0 nothing of the answer would be left to compare.
            return word, first, len(ids)
    raise Skipped(f"no piece of the greedy answer {streamed.text!r} is a word of its own")


def _stop_word_ids(target: Target, word: str) -> tuple[int, ...]:
    """The tokens that preprocessing makes of a stop word."""
    prepared = target.client.infer(
        "preprocessing",
        [
            tensor("QUERY", "BYTES", [[target.prompt]]),
            tensor("REQUEST_OUTPUT_LEN", "INT32", [[1]]),
            tensor("STOP_WORDS_DICT", "BYTES", [[word]]),
        ],
    )
    # [batch, 2, n]: the tokens of all words, then where each word ends.
    ids, ends = single(prepared).outputs["STOP_WORDS_IDS"].reshape(2, -1)
    return tuple(int(token) for token in ids[: int(ends[0])])


def _decoded(target: Target, tokens: tuple[int, ...]) -> str:
    """What postprocessing makes of token ids."""
    if not tokens:
        return ""
    answered = target.client.infer(
        "postprocessing",
        [
            tensor("TOKENS_BATCH", "INT32", [[list(tokens)]]),
            tensor("SEQUENCE_LENGTH", "INT32", [[len(tokens)]]),
        ],
    )
    text: bytes = single(answered).outputs["OUTPUT"].reshape(-1)[0]
    return text.decode("utf-8", errors="replace")


def _expect_one_final(answer: Answer, *, what: str) -> None:
    expect(bool(answer.chunks), f"{what}: no response at all")
    expect_equal(answer.num_final, 1, what=f"{what}: responses with the final flag")
    if not answer.chunks[-1].final:
        raise Failed(f"{what}: responses came after the one with the final flag")


def _known(target: Target) -> tuple[GoldenAnswer, ...]:
    if target.manifest is None:
        raise Skipped("no engine is known: give --engine")
    if not target.manifest.golden:
        raise Skipped("the engine has no golden answers: run `tpforge verify` on it")
    return target.manifest.golden


def _golden(target: Target) -> tuple[GoldenAnswer, ...]:
    """The golden answers that begin with a token that rounding cannot change."""
    _known(target)
    if not target.golden:
        raise Skipped(_indecisive(target, "no first token"))
    return target.golden


def _indecisive(target: Target, what: str) -> str:
    parity = target.manifest.parity if target.manifest is not None else None
    error = margin_error(parity, compute_dtype=target.compute_dtype)
    if error is None:
        return (
            f"verify did not measure what {target.compute_dtype} does to logits: run `tpforge verify` again"
        )
    return (
        f"computed in {target.compute_dtype}, in which margins are off by up to {error:.1e}, {what} of the "
        "golden answers wins by more than twice that"
    )
