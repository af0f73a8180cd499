"""Checks of what an OpenAI-compatible server answers: its form, golden text, streams, seeds, ends and counts.

Each takes the API that is asked, `completions` or `chat`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from triton_repo.smoke.check import NUM_TOKENS, Failed, Skipped, expect, expect_equal
from triton_repo.smoke.openai.target import OpenAiTarget, Reply, Usage, messages_of, read_stream, usage_of

_STREAM_TOKENS = 24
_SEEDS = (1, 2, 3)
_OPEN_PROMPT = "Once upon a time"
_SAMPLED_TOKENS = 8
_CUT = "\ufffd"
"""What a character that is cut in the middle is decoded to."""
_WHOLE = {"completions": "text_completion", "chat": "chat.completion"}
_PIECE = {"completions": ("text_completion",), "chat": ("chat.completion.chunk",)}


def check_models(target: OpenAiTarget) -> None:
    """/v1/models lists the model that is asked."""
    value = target.client.get("/v1/models")
    expect_equal(value.get("object"), "list", what="object of /v1/models")
    names = [str(model["id"]) for model in value["data"]]
    expect(target.model in names, f"/v1/models lists {names}, not {target.model!r}")


def check_contract(target: OpenAiTarget, api: str) -> None:
    """The fields of an answer, whole and streamed, are those that OpenAI's clients read."""
    target.require(api)
    value = target.ask(api, target.prompt, max_tokens=4).value
    problems = _form_problems(value, api, kinds=(_WHOLE[api],))
    problems += _usage_problems(value.get("usage"))
    (choice,) = value["choices"]
    if choice.get("finish_reason") not in ("stop", "length"):
        problems.append(f"finish_reason {choice.get('finish_reason')!r}, expected stop or length")
    if api == "chat":
        message = choice["message"]
        if message.get("role") != "assistant":
            problems.append(f"message.role {message.get('role')!r}, expected assistant")
    elif not isinstance(choice.get("text"), str):
        problems.append(f"choices[0].text {choice.get('text')!r}, expected text")
    with target.open(api, target.prompt, max_tokens=4) as stream:
        expect_equal(stream.content_type, "text/event-stream", what="Content-Type of a stream")
        for chunk in read_stream(list(stream)).value["chunks"]:
            problems += _form_problems(chunk, api, kinds=_PIECE[api])
    if problems:
        raise Failed("; ".join(sorted(set(problems))))


def _form_problems(value: dict[str, Any], api: str, *, kinds: tuple[str, ...]) -> list[str]:
    problems = [
        f"{name} {value.get(name)!r}, expected a {kind.__name__}"
        for name, kind in (("id", str), ("created", int), ("model", str), ("choices", list))
        if not isinstance(value.get(name), kind)
    ]
    if value.get("object") not in kinds:
        problems.append(f"object {value.get('object')!r} of {api}, expected {' or '.join(kinds)}")
    return problems


def _usage_problems(usage: dict[str, Any] | None) -> list[str]:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    if not isinstance(usage, dict) or not all(isinstance(usage.get(name), int) for name in names):
        return [f"usage {usage!r}, expected the numbers {', '.join(names)}"]
    prompt, completion, total = (usage[name] for name in names)
    return [] if prompt + completion == total else [f"usage: {prompt} + {completion} is not {total}"]


def check_golden(target: OpenAiTarget) -> None:
    """A golden prompt, as text, gets the golden text."""
    if target.manifest is None:
        raise Skipped("no engine is known: give --engine")
    if not target.golden:
        raise Skipped("the engine has no golden answers that decide a token: run `tpforge verify` on it")
    for golden in target.golden:
        count = target.num_decisive(golden.prompt, len(golden.token_ids))
        reply = target.ask("completions", golden.prompt, max_tokens=count)
        what = f"answer to golden prompt {golden.name!r}"
        found, expected = reply.text.lstrip(), golden.text.lstrip()
        if count == len(golden.token_ids):
            expect_equal(found, expected, what=what)
        else:
            whole = found.rstrip(_CUT)
            expect(bool(whole) or count < 4, f"{what}: no text in {count} tokens")
            expect(expected.startswith(whole), f"{what}: {found!r}, which does not begin {expected!r}")


def check_streaming(target: OpenAiTarget, api: str) -> None:
    """The same text in several chunks, in order, one finish reason, then [DONE] and nothing after it."""
    target.require(api)
    whole = target.ask(api, target.prompt, max_tokens=_STREAM_TOKENS)
    streamed = _streamed(target, api, max_tokens=_STREAM_TOKENS)
    expect_equal(streamed.text, whole.text, what="text of the stream joined")
    expect_equal(streamed.finish_reason, whole.finish_reason, what="finish reason of the stream")
    expect(
        len(streamed.pieces) > 1 or len(whole.text) < 2,
        f"the stream came as {len(streamed.pieces)} chunk with text, expected one per token",
    )


def check_determinism(target: OpenAiTarget, api: str) -> None:
    """The same request without sampling gets the same answer every time."""
    target.require(api)
    texts = {target.ask(api, target.prompt, max_tokens=NUM_TOKENS).text for _ in range(3)}
    expect(len(texts) == 1, f"the same greedy request got different answers: {sorted(texts)}")


def check_seed(target: OpenAiTarget, api: str) -> None:
    """A seed makes a random answer repeatable, and another seed makes another answer."""
    target.require(api)

    def sample(seed: int) -> str:
        return target.ask(api, _OPEN_PROMPT, max_tokens=_SAMPLED_TOKENS, temperature=1.0, seed=seed).text

    texts = [sample(seed) for seed in _SEEDS]
    expect_equal(sample(_SEEDS[0]), texts[0], what=f"answer with seed {_SEEDS[0]} the second time")
    expect(len(set(texts)) > 1, f"seeds {_SEEDS} at temperature 1 all gave {texts[0]!r}")


def check_max_tokens(target: OpenAiTarget, api: str) -> None:
    """An answer has as many tokens as asked for, unless the model ended it; a short one begins a long one."""
    target.require(api)
    counts = (1, NUM_TOKENS // 2, NUM_TOKENS)
    replies = [target.ask(api, target.prompt, max_tokens=count) for count in counts]
    for shorter, longer in pairwise(replies):
        begins = longer.text.startswith(shorter.text.rstrip(_CUT))
        expect(begins, f"max_tokens: {shorter.text!r} does not begin the longer {longer.text!r}")
    for count, reply in zip(counts, replies, strict=True):
        found = _usage(reply).completion
        expect(found <= count, f"{found} tokens with max_tokens {count}")
        ended = "length" if found == count else "stop"
        # The token that ends an answer counts for some servers, and not for others.
        allowed = {ended, "stop"} if found == count else {ended}
        expect(
            reply.finish_reason in allowed,
            f"finish_reason {reply.finish_reason!r} after {found} tokens with max_tokens {count}, "
            f"expected {ended}",
        )
        if reply.finish_reason == "length":
            expect_equal(found, count, what=f"tokens of an answer that ended by max_tokens {count}")


def check_stop_words(target: OpenAiTarget, api: str) -> None:
    """An answer ends before a stop word, and not anywhere else."""
    target.require(api)
    streamed = _streamed(target, api, max_tokens=NUM_TOKENS)
    word = _stop_word(streamed)
    reply = target.ask(api, target.prompt, max_tokens=NUM_TOKENS, stop=[word])
    expected = streamed.text[: streamed.text.find(word)]
    expect_equal(reply.text, expected, what=f"answer with stop word {word!r}")
    expect_equal(reply.finish_reason, "stop", what=f"finish reason with stop word {word!r}")
    never = "\u0001never said\u0001"
    unstopped = target.ask(api, target.prompt, max_tokens=NUM_TOKENS, stop=[never])
    expect_equal(unstopped.text, streamed.text, what="answer with a stop word that does not occur")


def _stop_word(streamed: Reply) -> str:
    """A piece of the answer, best from its middle, that stands first where its own token is."""
    place, candidates = 0, []
    for piece in streamed.pieces:
        if place > 0 and piece.strip() and _CUT not in piece and streamed.text.find(piece) == place:
            candidates.append(piece)
        place += len(piece)
    if not candidates:
        raise Skipped(f"no piece of the greedy answer {streamed.text!r} is a word of its own")
    return candidates[len(candidates) // 2]


def check_usage(target: OpenAiTarget, api: str) -> None:
    """Counts are the tokenizer's: of the prompt with its special tokens once, and of the golden answer.

    A conversation's are those of the chat template applied once, so that a doubled begin token shows.
    """
    target.require(api)
    if target.tokens is None:
        raise Skipped("no tokenizer is known: give --engine")
    for prompt in target.prompts[:3]:
        reply = target.ask(api, prompt, max_tokens=4)
        tokens = target.tokens
        in_chat = api == "chat"
        count = tokens.in_conversation(messages_of(prompt)) if in_chat else tokens.in_prompt(prompt)
        expect_equal(_usage(reply).prompt, count, what=f"prompt_tokens of {prompt!r} over {api}")
    streamed, whole = (
        _usage(reply)
        for reply in (
            _streamed(target, api, max_tokens=NUM_TOKENS),
            target.ask(api, target.prompt, max_tokens=NUM_TOKENS),
        )
    )
    expect_equal(streamed, whole, what="usage of the stream")
    if api == "completions" and target.golden:
        golden = target.golden[0]
        count = target.num_decisive(golden.prompt, NUM_TOKENS)
        found = _usage(target.ask(api, golden.prompt, max_tokens=count)).completion
        expect_equal(found, count, what=f"completion_tokens of golden prompt {golden.name!r}")


def check_usage_in_stream(target: OpenAiTarget, api: str) -> None:
    """A stream tells its usage when asked to, in a last chunk without a choice, and not when not asked."""
    target.require(api)
    with target.open(api, target.prompt, max_tokens=4) as stream:
        chunks = read_stream(list(stream)).value["chunks"]
    last = chunks[-1]
    expect(usage_of(last) is not None, "the last chunk has no usage, though stream_options asked for it")
    expect_equal(last["choices"], [], what="choices of the chunk with the usage")
    with target.open(api, target.prompt, max_tokens=4, stream_options=None) as stream:
        unasked = read_stream(list(stream))
    expect(unasked.usage is None, f"usage {unasked.usage} in a stream that was not asked for it")


def _streamed(target: OpenAiTarget, api: str, *, max_tokens: int) -> Reply:
    with target.open(api, target.prompt, max_tokens=max_tokens) as stream:
        return read_stream(list(stream))


def _usage(reply: Reply) -> Usage:
    if reply.usage is None:
        raise Failed("the answer has no usage")
    return reply.usage
