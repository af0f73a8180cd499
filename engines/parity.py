"""Whether the rank files compute what the source computes: logits and greedy tokens against transformers.

The source's weights are rounded to the engine's dtype, and both sides compute in float32, so that
nothing is left but what sharding did. It does not compare tensors; `builders.proof.verify` does.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.chat import chat_prompt, find_template
from engines.far_positions import expect_far, far_error, largest, window_problems
from engines.positions_apart import apart_error, expect_apart
from engines.reference import EngineConfig, Executor, load_config, open_executor
from engines.reference.batches import Logits, Prefill
from engines.reference.greedy import greedy_together
from engines.transformers_model import load_transformers
from tpforge.dtypes import DType
from tpforge.errors import InputRefused
from tpforge.golden import decisive_tokens, first_run
from tpforge.manifest import GoldenAnswer, Manifest, Parity, Rounding
from tpforge.progress import Progress

LOGIT_TOLERANCE = 2e-3
NUM_GREEDY_TOKENS = 64
_NUM_RIVALS = 16
"""Tokens that may stand in a greedy one's place; those behind them are too far off."""


@dataclass(frozen=True)
class Prompt:
    """A prompt as text, after the chat template, and as the token ids that preprocessing makes of it."""

    name: str
    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Expected:
    """What transformers says for a prompt: greedy tokens, and logits [prompt + tokens - 1, vocab]."""

    prompt: Prompt
    tokens: tuple[int, ...]
    logits: Tensor

    @property
    def margins(self) -> Tensor:
        """By how much each greedy token won over the second best."""
        top = self.logits[len(self.prompt.ids) - 1 :].topk(2).values
        return top[:, 0] - top[:, 1]


@dataclass(frozen=True)
class _Rounded:
    """The largest error of a logit, and of a difference between two that choose a greedy token."""

    logit: float
    margin: float


@dataclass(frozen=True)
class _Difference:
    """One prompt on the ranks against transformers."""

    rounding: _Rounded
    kl_divergences: Tensor
    num_top1_equal: int
    num_greedy_equal: int
    problems: tuple[str, ...]


def measure_parity(
    engine_dir: Path,
    manifest: Manifest,
    *,
    source_path: Path,
    weights: Mapping[str, Tensor] | None = None,
    progress: Progress,
) -> tuple[Parity, tuple[GoldenAnswer, ...]]:
    """Run every prompt through transformers and through the ranks, and compare.

    `weights` stand for tensors of the source, by their names in its files: the values of a quantized
    engine's matrices.

    Raises:
        InputRefused: no prompt fits the engine's limits, or transformers cannot load the source.
    """
    config = load_config(engine_dir)
    # The truth has no quantized KV cache; what that costs is in the error as served, and in the quality.
    exact = replace(config, rounds_kv=False)
    prompts = load_prompts(engine_dir / "tokenizer", manifest=manifest)
    progress("ranks: greedy tokens of every prompt, step by step")
    answers = _greedy_answers(exact, manifest, prompts)
    progress(f"transformers: loading {source_path}")
    model = load_transformers(source_path, manifest, weights=weights)
    expected = expectations(model, manifest, prompts, proposed=answers, progress=progress)
    far = expect_far(model, manifest, progress=progress)
    apart = expect_apart(model, manifest, progress=progress)
    declared = list(window_problems(model.config.get_text_config(), manifest))
    del model
    with open_ranks(exact, "float32") as executor:
        differences = []
        for item in expected:
            differences.append(_compare(item, executor, found=answers[item.prompt.name]))
            progress(f"ranks: {item.prompt.name}: largest logit error {differences[-1].rounding.logit:.1e}")
        far_worst = 0.0 if far is None else far_error(far, executor)
        apart_worst = 0.0 if apart is None else apart_error(apart, executor)
    if far is not None and not far_worst < LOGIT_TOLERANCE:
        declared.append(
            f"a prompt of {len(far.tokens)} tokens: logits of its last positions off by up to "
            f"{far_worst:.2e}, where windows and scaled ropes show"
        )
    rounding = _measure_rounding(config, manifest, expected, differences, progress=progress)
    parity = _summarize(expected, differences, rounding)
    if apart is not None and parity.passed and not apart_worst < LOGIT_TOLERANCE:
        declared.append(
            f"tokens apart, at positions up to {apart.places[-1]}: logits off by up to {apart_worst:.2e}, "
            "while the prompts are right: a window or the rope is not the model's"
        )
    parity = parity.model_copy(
        update={
            "passed": parity.passed and not declared,
            "max_abs_logit_error": max(parity.max_abs_logit_error, far_worst, apart_worst),
            "problems": (*declared, *parity.problems),
        }
    )
    return parity, tuple(_golden(item, manifest, engine_dir, parity) for item in expected)


def load_prompts(tokenizer_dir: Path, *, manifest: Manifest) -> list[Prompt]:
    """The prompts of prompts.toml that fit the engine, templated and tokenized as a server would."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    table = tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf-8"))
    template = _chat_template(tokenizer_dir)
    begin = manifest.model.special_tokens.begin_id
    prompts = []
    for row in table["prompt"]:
        text = template(row["text"].strip())
        ids = tokenizer.encode(text).ids
        begin_text = tokenizer.id_to_token(begin) if begin is not None else None
        if begin_text and ids[:2] == [begin, begin]:
            # The template wrote the begin token and the tokenizer adds it too: keep one.
            text = text.removeprefix(begin_text)
            ids = tokenizer.encode(text).ids
        if len(ids) <= min(manifest.limits.max_input_len, manifest.limits.max_seq_len - 1):
            prompts.append(Prompt(row["name"], text, tuple(ids)))
    if not prompts:
        raise InputRefused(
            f"no verification prompt fits max_input_len {manifest.limits.max_input_len}; "
            "build the engine with a larger --max-input-len"
        )
    return prompts


def _chat_template(tokenizer_dir: Path) -> Callable[[str], str]:
    if find_template(tokenizer_dir) is None:
        return lambda text: text
    return lambda text: chat_prompt(tokenizer_dir, text)


def expectations(
    model: Any,
    manifest: Manifest,
    prompts: list[Prompt],
    *,
    proposed: Mapping[str, Sequence[int]] | None = None,
    progress: Progress,
) -> list[Expected]:
    """What a transformers model says for every prompt.

    `proposed` are answers by the name of the prompt, whoever gave them: where each token is the one that the
    model itself chooses there, one pass says so, and the answer is the model's own.
    """
    expected = []
    for prompt in prompts:
        num_tokens = _num_tokens(manifest, prompt)
        said = tuple((proposed or {}).get(prompt.name, ()))
        own = _confirm(model, prompt, said) if len(said) == num_tokens else None
        expected.append(own or _expect(model, prompt, num_tokens=num_tokens))
        how = "in one pass" if own else "step by step"
        progress(f"transformers: {prompt.name}: {num_tokens} greedy tokens, {how}")
    return expected


def _num_tokens(manifest: Manifest, prompt: Prompt) -> int:
    """How many greedy tokens of a prompt are compared: as many as the engine has room for."""
    return min(NUM_GREEDY_TOKENS, manifest.limits.max_seq_len - len(prompt.ids))


def _greedy_answers(config: EngineConfig, manifest: Manifest, prompts: list[Prompt]) -> dict[str, list[int]]:
    """What the ranks answer to every prompt, step by step, in batches no larger than the engine serves."""
    num_slots = min(len(prompts), manifest.limits.max_batch_size)
    with open_ranks(config, "float32", num_slots=num_slots) as executor:
        answers = greedy_together(
            executor,
            [prompt.ids for prompt in prompts],
            num_tokens=[_num_tokens(manifest, prompt) for prompt in prompts],
            num_slots=num_slots,
        )
    return {prompt.name: tokens for prompt, tokens in zip(prompts, answers, strict=True)}


@torch.inference_mode()
def _confirm(model: Any, prompt: Prompt, tokens: tuple[int, ...]) -> Expected | None:
    """The answer, when the model chooses each of its tokens after those before; None when it does not."""
    output = model(torch.tensor([[*prompt.ids, *tokens[:-1]]]), use_cache=False)
    logits = output.logits[0].float()
    chosen = logits[len(prompt.ids) - 1 :].argmax(-1)
    return Expected(prompt, tokens, logits) if chosen.tolist() == list(tokens) else None


@torch.inference_mode()
def _expect(model: Any, prompt: Prompt, *, num_tokens: int) -> Expected:
    """Greedy tokens by a plain loop: generate() would apply the model's own generation config."""
    tokens: list[int] = []
    output = model(torch.tensor([prompt.ids]), use_cache=True)
    logits = [output.logits[0]]
    while True:
        tokens.append(int(logits[-1][-1].argmax()))
        if len(tokens) == num_tokens:
            return Expected(prompt, tuple(tokens), torch.cat(logits).float())
        output = model(torch.tensor([[tokens[-1]]]), past_key_values=output.past_key_values, use_cache=True)
        logits.append(output.logits[0])


@contextmanager
def open_ranks(config: EngineConfig, compute_dtype: str, *, num_slots: int = 1) -> Iterator[Executor]:
    """The ranks of an engine in one process, for as long as the context lasts."""
    executor = open_executor(
        config, kind="lockstep", device="auto", compute_dtype=compute_dtype, num_slots=num_slots
    )
    try:
        yield executor
    finally:
        executor.close()


def forced_logits(item: Expected, executor: Executor) -> Tensor:
    """The ranks' logits at every position of the prompt and its expected continuation."""
    sequence = (*item.prompt.ids, *item.tokens[:-1])
    logits = executor.forward(Prefill(slot=0, start=0, tokens=sequence, logits=Logits.ALL))
    assert logits is not None
    return logits


def _compare(item: Expected, executor: Executor, *, found: Sequence[int]) -> _Difference:
    logits = forced_logits(item, executor)
    equal = [ours == theirs for ours, theirs in zip(found, item.tokens, strict=True)]
    first_miss = equal.index(False) if False in equal else len(equal)
    problems = _deviations(item, logits, executor)
    if first_miss < len(equal) and item.margins[first_miss] > 2 * LOGIT_TOLERANCE:
        problems.append(
            f"prompt {item.prompt.name!r}: greedy token {first_miss} is {found[first_miss]}, transformers "
            f"gives {item.tokens[first_miss]} by a margin of {item.margins[first_miss]:.3f}"
        )
    # In float64: the divergence of near-equal distributions is below float32's rounding.
    expected = item.logits.double().log_softmax(-1)
    divergences = (expected.exp() * (expected - logits.double().log_softmax(-1))).sum(-1)
    return _Difference(
        rounding=_rounded(item, logits),
        kl_divergences=divergences,
        num_top1_equal=int((logits.argmax(-1) == item.logits.argmax(-1)).sum()),
        num_greedy_equal=first_miss,
        problems=tuple(problems),
    )


def _deviations(item: Expected, logits: Tensor, executor: Executor) -> list[str]:
    """Where the logits miss the tolerance, and whether the ranks say the same when asked again.

    They are asked again only to tell a wrong shard, which is wrong every time, from a machine that
    computes wrongly now and then; the first answer counts.
    """
    errors = (logits - item.logits).abs().amax(-1).nan_to_num(nan=torch.inf)
    off = (errors >= LOGIT_TOLERANCE).nonzero().flatten().tolist()
    if not off:
        return []
    change = float((forced_logits(item, executor) - logits).abs().max())
    return [
        f"prompt {item.prompt.name!r}: logits off by up to {float(errors.max()):.2e} at {len(off)} of "
        f"{len(errors)} positions, first at {off[0]}; computed again, the ranks change by {change:.1e}"
    ]


def _rounded(item: Expected, logits: Tensor) -> _Rounded:
    """How far logits are off: all of them, and what parts each greedy token from its likeliest rivals."""
    start = len(item.prompt.ids) - 1
    best = item.logits[start:].topk(min(1 + _NUM_RIVALS, logits.shape[1])).indices

    def margins(values: Tensor) -> Tensor:
        held = values[start:].gather(1, best)
        return held[:, :1] - held

    return _Rounded(
        logit=largest(logits - item.logits), margin=largest(margins(logits) - margins(item.logits))
    )


def _measure_rounding(
    config: EngineConfig,
    manifest: Manifest,
    expected: list[Expected],
    differences: list[_Difference],
    *,
    progress: Progress,
) -> tuple[Rounding, ...]:
    """What each dtype that a server may compute in does to the logits, with the KV cache as it is served.

    Those are float32, bfloat16 and the engine's own.
    """
    found = []
    for dtype in dict.fromkeys((DType.FLOAT32, DType.BFLOAT16, manifest.dtype)):
        if dtype is DType.FLOAT32 and config.kv_algorithm is None:
            # The very computation that was compared.
            rounded = [difference.rounding for difference in differences]
        else:
            with open_ranks(config, dtype.value) as executor:
                rounded = [_rounded(item, forced_logits(item, executor)) for item in expected]
        logit, margin = max(one.logit for one in rounded), max(one.margin for one in rounded)
        progress(f"computed in {dtype}: logits off by up to {logit:.1e}, margins by {margin:.1e}")
        found.append(Rounding(compute_dtype=dtype, max_abs_logit_error=logit, max_margin_error=margin))
    return tuple(found)


def _summarize(
    expected: list[Expected], differences: list[_Difference], rounding: tuple[Rounding, ...]
) -> Parity:
    import safetensors
    import transformers

    worst = max(difference.rounding.logit for difference in differences)
    num_positions = sum(item.logits.shape[0] for item in expected)
    problems = [problem for difference in differences for problem in difference.problems]
    if not worst < LOGIT_TOLERANCE:
        problems.append(f"largest logit error {worst:.2e} is not below {LOGIT_TOLERANCE:.0e}")
    return Parity(
        passed=not problems,
        num_tensors=0,
        num_unequal_tensors=0,
        num_prompts=len(expected),
        num_positions=num_positions,
        max_abs_logit_error=worst,
        mean_kl_divergence=largest(torch.cat([item.kl_divergences for item in differences]).mean()),
        top1_agreement=sum(item.num_top1_equal for item in differences) / num_positions,
        num_greedy_tokens=sum(len(item.tokens) for item in expected),
        num_greedy_equal=sum(item.num_greedy_equal for item in differences),
        logit_tolerance=LOGIT_TOLERANCE,
        rounding=rounding,
        versions={
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "safetensors": safetensors.__version__,
        },
        problems=tuple(problems),
    )


def _golden(item: Expected, manifest: Manifest, engine_dir: Path, parity: Parity) -> GoldenAnswer:
    from tokenizers import Tokenizer

    tokens = list(item.tokens)
    ends = [index for index, token in enumerate(tokens) if token in manifest.model.special_tokens.end_ids]
    answer = tokens[: ends[0]] if ends else tokens
    tokenizer = Tokenizer.from_file(str(engine_dir / "tokenizer" / "tokenizer.json"))
    golden = GoldenAnswer(
        name=item.prompt.name,
        prompt=item.prompt.text,
        prompt_ids=item.prompt.ids,
        token_ids=tuple(answer),
        text=tokenizer.decode(answer),
        num_decisive=0,
        margins=tuple(round(margin, 5) for margin in item.margins[: len(answer)].tolist()),
    )
    decisive = decisive_tokens(golden, parity=parity, compute_dtype=DType.FLOAT32)
    return golden.model_copy(update={"num_decisive": first_run(decisive).count})
