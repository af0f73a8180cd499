"""What quantization cost: the ranks against the same model before it, on prompts and on a text.

Whether the ranks compute what their own quantized weights imply is `parity`; here the baseline is the source
in the engine's float type. The text is of books in the public domain: Austen, Melville, Lincoln, Darwin,
Carroll.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from engines.parity.comparing import forced_logits, greedy_answers, open_ranks
from engines.parity.expected import Expected, expectations
from engines.parity.prompts import Prompt, load_prompts
from engines.parity.transformers_model import load_transformers
from engines.reference import Executor, load_config
from engines.reference.batches import Logits, Prefill
from tpforge.errors import InputRefused
from tpforge.manifest import Manifest, Quality
from tpforge.progress import Progress

WINDOW = 512
"""Tokens that are scored together; each but the first, from those before it."""
Scorer = Callable[[tuple[int, ...]], Tensor]


@dataclass(frozen=True)
class Baseline:
    """What the unquantized model says: for the prompts, and its perplexity of the text."""

    expected: list[Expected]
    text: str
    windows: list[tuple[int, ...]]
    perplexity: float


def measure_quality(
    engine_dir: Path, manifest: Manifest, *, source_path: Path, progress: Progress
) -> Quality:
    """Run the prompts and the text through transformers with the source's weights, and through the ranks.

    Raises:
        InputRefused: no prompt fits the engine's limits, or transformers cannot load the source.
    """
    prompts = load_prompts(engine_dir / "tokenizer", manifest=manifest)
    progress("ranks: greedy tokens of every prompt, step by step")
    answers = greedy_answers(load_config(engine_dir), manifest, prompts)
    baseline = measure_baseline(
        engine_dir, manifest, source_path=source_path, prompts=prompts, proposed=answers, progress=progress
    )
    return compare_with(baseline, engine_dir, manifest, answers=answers, progress=progress)


def measure_baseline(
    engine_dir: Path,
    manifest: Manifest,
    *,
    source_path: Path,
    prompts: list[Prompt],
    proposed: Mapping[str, Sequence[int]] | None = None,
    progress: Progress,
) -> Baseline:
    """What transformers says with the source's weights; the windows fit the engine.

    `proposed` are answers by the name of the prompt; `expectations` keeps what transformers says too.

    Raises:
        InputRefused: transformers cannot load the source.
    """
    length = min(WINDOW, manifest.limits.max_seq_len)
    text, windows = text_windows(engine_dir / "tokenizer", length=length)
    progress("transformers: loading the source, unquantized")
    model = load_transformers(source_path, manifest)
    expected = expectations(model, manifest, prompts, proposed=proposed, progress=progress)
    progress("transformers: perplexity of the text")
    with torch.inference_mode():
        before = _perplexity(windows, lambda window: model(torch.tensor([window])).logits[0])
    return Baseline(expected, text, windows, before)


def compare_with(
    baseline: Baseline,
    engine_dir: Path,
    manifest: Manifest,
    *,
    answers: Mapping[str, Sequence[int]] | None = None,
    progress: Progress,
) -> Quality:
    """What the ranks of an engine lost against a baseline.

    `answers` are the ranks' own by the name of the prompt, where they have been asked already.
    """
    expected, windows = baseline.expected, baseline.windows
    config = load_config(engine_dir)
    if answers is None:
        answers = greedy_answers(config, manifest, [item.prompt for item in expected])
    with open_ranks(config, "float32") as executor:
        progress("ranks: perplexity of the text")
        after = _perplexity(windows, lambda window: _all_logits(executor, window))
        compared = [_compare(item, executor, found=answers[item.prompt.name]) for item in expected]
    num_positions = sum(item.logits.shape[0] for item in expected)
    return Quality(
        baseline=f"the source in {manifest.dtype}",
        num_positions=num_positions,
        mean_kl_divergence=sum(kl for kl, _, _ in compared) / num_positions,
        top1_agreement=sum(equal for _, equal, _ in compared) / num_positions,
        num_greedy_tokens=sum(len(item.tokens) for item in expected),
        num_greedy_equal=sum(same for _, _, same in compared),
        text_sha256=hashlib.sha256(baseline.text.encode()).hexdigest(),
        num_text_tokens=sum(len(window) - 1 for window in windows),
        baseline_perplexity=baseline.perplexity,
        perplexity=after,
        perplexity_drop=after / baseline.perplexity - 1,
    )


def text_windows(tokenizer_dir: Path, *, length: int = WINDOW) -> tuple[str, list[tuple[int, ...]]]:
    """The text, and its tokens in windows of at most `length`.

    Raises:
        InputRefused: a window would be of one token.
    """
    from tokenizers import Tokenizer

    text = Path(__file__).with_name("quality_text.txt").read_text(encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    tokens = tuple(tokenizer.encode(text, add_special_tokens=False).ids)
    windows = [tokens[first : first + length] for first in range(0, len(tokens), length)]
    kept = [window for window in windows if len(window) > 1]
    if not kept:
        raise InputRefused(f"max_seq_len {length} is too short to score a text; use 2 or more")
    return text, kept


def _perplexity(windows: list[tuple[int, ...]], scorer: Scorer) -> float:
    """exp of the mean negative log likelihood of every token but the first of each window."""
    total, count = 0.0, 0
    for window in windows:
        logits = scorer(window)[:-1].float()
        targets = torch.tensor(window[1:], device=logits.device)
        total += float(functional.cross_entropy(logits, targets, reduction="sum"))
        count += len(window) - 1
    return math.exp(total / count)


def _all_logits(executor: Executor, tokens: tuple[int, ...]) -> Tensor:
    logits = executor.forward(Prefill(slot=0, start=0, tokens=tokens, logits=Logits.ALL))
    assert logits is not None
    return logits


def _compare(item: Expected, executor: Executor, *, found: Sequence[int]) -> tuple[float, int, int]:
    """Sum of the KL divergences, number of equal first choices, greedy tokens before the first other one."""
    logits = forced_logits(item, executor)
    expected = item.logits.double().log_softmax(-1)
    divergence = float((expected.exp() * (expected - logits.double().log_softmax(-1))).sum())
    equal = int((logits.argmax(-1) == item.logits.argmax(-1)).sum())
    same = [ours == theirs for ours, theirs in zip(found, item.tokens, strict=True)]
    return divergence, equal, same.index(False) if False in same else len(same)
