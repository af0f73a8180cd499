"""From a request of Dynamo's front to the tensors of upstream's tensorrt_llm, and what cannot be asked for.

The front has rendered the chat template, tokenized and checked OpenAI's fields before. It sends nothing.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Mapping
from typing import Any

from triton_repo.client.wire import Tensor, tensor
from triton_repo.openai.settings import WorkerSettings

Fields = Mapping[str, Any]

_PENALTIES = ("repetition_penalty", "presence_penalty", "frequency_penalty")
_GUIDES = {
    "json": "json_schema",
    "regex": "regex",
    "grammar": "ebnf_grammar",
    "structural_tag": "structural_tag",
}
"""Of Dynamo's guided decoding, and the guide types of upstream's tensor."""


class RequestProblem(ValueError):
    """A request is refused; the message begins with OpenAI's name of the field."""


def request_tensors(request: Fields, *, settings: WorkerSettings) -> list[Tensor]:
    """The tensors of one request; temperature 0 is greedy, and a request without a seed has one drawn.

    Raises:
        RequestProblem: it asks for more tokens than the engine has, or for what tensorrt_llm cannot do.
    """
    prompt = [int(token) for token in request["token_ids"]]
    stop = request.get("stop_conditions") or {}
    sampling = request.get("sampling_options") or {}
    output = request.get("output_options") or {}
    _refuse(sampling, output)
    num_tokens = _max_tokens(len(prompt), stop, settings)
    return [
        tensor("input_ids", "INT32", [prompt]),
        tensor("input_lengths", "INT32", [[len(prompt)]]),
        tensor("request_output_len", "INT32", [[num_tokens]]),
        tensor("exclude_input_in_output", "BOOL", [[True]]),
        *([tensor("streaming", "BOOL", [[True]])] if settings.decoupled else []),
        *_ends(stop, settings),
        *_sampling(sampling, output),
        *_guide(sampling.get("guided_decoding")),
    ]


def max_tokens(request: Fields, *, settings: WorkerSettings) -> int:
    """How many tokens an answer may have: as asked, or all that the engine's sequences hold.

    Raises:
        RequestProblem: there are not as many.
    """
    return _max_tokens(len(request["token_ids"]), request.get("stop_conditions") or {}, settings)


def _max_tokens(num_prompt: int, stop: Fields, settings: WorkerSettings) -> int:
    if num_prompt == 0:
        raise RequestProblem("prompt: is empty, expected text")
    if num_prompt > settings.max_input_len:
        raise RequestProblem(
            f"prompt: has {num_prompt} tokens, more than max_input_len {settings.max_input_len} of this "
            "engine; shorten it"
        )
    left = settings.max_seq_len - num_prompt
    asked = stop.get("max_tokens")
    if left < 1 or (asked is not None and asked > left):
        raise RequestProblem(
            f"max_tokens: {num_prompt} prompt tokens + {asked or 1} output tokens are more than max_seq_len "
            f"{settings.max_seq_len} of this engine; expected {max(left, 0)} or less"
        )
    return left if asked is None else int(asked)


def _refuse(sampling: Fields, output: Fields) -> None:
    """Refuse what tensorrt_llm's tensors cannot say.

    Raises:
        RequestProblem: names the first field.
    """
    refused = (
        ("n", (sampling.get("n") or 1) > 1, "Dynamo's workers give one answer a request; ask several times"),
        # 1 is also what the front makes of `logprobs: true` alone.
        ("top_logprobs", (output.get("logprobs") or 0) > 1, "only the chosen token's is returned; use 1"),
        # The front asks for them where a completion shall repeat its prompt.
        ("echo", output.get("prompt_logprobs") is not None, "a prompt is not returned; leave it out"),
        ("use_beam_search", bool(sampling.get("use_beam_search")), "is not offered here; leave it out"),
        ("min_p", bool(sampling.get("min_p")), "is not offered by tensorrt_llm; leave it out"),
        ("best_of", (sampling.get("best_of") or 1) > 1, "is not offered here; use 1"),
    )
    for field, is_asked, reason in refused:
        if is_asked:
            raise RequestProblem(f"{field}: {reason}")


def _ends(stop: Fields, settings: WorkerSettings) -> Iterator[Tensor]:
    """What ends an answer before max_tokens, and from which token on."""
    pad_id = settings.pad_id if settings.pad_id is not None else next(iter(settings.end_ids), 0)
    yield tensor("pad_id", "INT32", [[pad_id]])
    ends = () if stop.get("ignore_eos") else settings.end_ids
    yield tensor("end_id", "INT32", [[ends[0] if ends else -1]])
    words = dict.fromkeys([*ends[1:], *(stop.get("stop_token_ids") or ())])
    if words:
        yield tensor("stop_words_list", "INT32", [[list(words), list(range(1, len(words) + 1))]])
    if stop.get("min_tokens"):
        yield tensor("min_tokens", "INT32", [[stop["min_tokens"]]])


def _sampling(sampling: Fields, output: Fields) -> Iterator[Tensor]:
    """OpenAI's defaults, temperature 1 and top_p 1, where tensorrt_llm's own would be greedy."""
    temperature = sampling.get("temperature")
    if temperature == 0:
        yield tensor("runtime_top_k", "INT32", [[1]])
    else:
        top_k, top_p = sampling.get("top_k") or 0, sampling.get("top_p")
        yield tensor("temperature", "FP32", [[1.0 if temperature is None else temperature]])
        yield tensor("runtime_top_k", "INT32", [[max(top_k, 0)]])
        yield tensor("runtime_top_p", "FP32", [[1.0 if top_p is None else top_p]])
        seed = sampling.get("seed")
        yield tensor("seed", "UINT64", [[secrets.randbits(63) if seed is None else seed % 2**64]])
    for name in _PENALTIES:
        if sampling.get(name) is not None:
            yield tensor(name, "FP32", [[sampling[name]]])
    if output.get("logprobs") is not None:
        yield tensor("return_log_probs", "BOOL", [[True]])


def _guide(guided: Fields | None) -> Iterator[Tensor]:
    """Guided decoding by one guide.

    Raises:
        RequestProblem: it is by another kind than tensorrt_llm has.
    """
    given = {name: value for name, value in (guided or {}).items() if value and name not in ("backend",)}
    if not given:
        return
    name = next(iter(given))
    if len(given) > 1 or name not in _GUIDES:
        kinds = sorted(_GUIDES)
        raise RequestProblem(
            f"response_format: guided by {', '.join(given)}, expected one of {', '.join(kinds)}"
        )
    value = given[name] if isinstance(given[name], str) else json.dumps(given[name])
    yield tensor("guided_decoding_guide_type", "BYTES", [[_GUIDES[name]]])
    yield tensor("guided_decoding_guide", "BYTES", [[value]])
