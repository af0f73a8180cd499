"""Whether the rank files compute what the source computes: logits and greedy tokens against transformers.

The source's weights are rounded to the engine's dtype, and both sides compute in float32, so that
nothing is left but what sharding did. It does not compare tensors; `builders.proof.verify` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.parity.comparing import (
    LOGIT_TOLERANCE,
    Difference,
    compare,
    forced_logits,
    greedy_answers,
    open_ranks,
    rounded_by,
)
from engines.parity.expected import Expected, expectations
from engines.parity.far_positions import Far, expect_far, far_error, largest, window_problems
from engines.parity.positions_apart import Apart, apart_error, expect_apart
from engines.parity.prompts import Prompt, load_prompts
from engines.parity.transformers_model import load_transformers
from engines.reference import EngineConfig, load_config
from tpforge.dtypes import DType
from tpforge.golden import decisive_tokens, first_run
from tpforge.manifest import GoldenAnswer, Manifest, Parity, Rounding
from tpforge.progress import Progress


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
    answers = greedy_answers(exact, manifest, prompts)
    progress(f"transformers: loading {source_path}")
    model = load_transformers(source_path, manifest, weights=weights)
    truth = _ask(model, manifest, prompts, proposed=answers, progress=progress)
    del model
    with open_ranks(exact, "float32") as executor:
        differences = []
        for item in truth.expected:
            differences.append(compare(item, executor, found=answers[item.prompt.name]))
            progress(f"ranks: {item.prompt.name}: largest logit error {differences[-1].rounding.logit:.1e}")
        far_worst = 0.0 if truth.far is None else far_error(truth.far, executor)
        apart_worst = 0.0 if truth.apart is None else apart_error(truth.apart, executor)
    rounding = _measure_rounding(config, manifest, truth.expected, differences, progress=progress)
    parity = _with_positions(
        _summarize(truth.expected, differences, rounding), truth, far_worst=far_worst, apart_worst=apart_worst
    )
    sound = (item for item in truth.expected if item.margins.isfinite().all())
    return parity, tuple(_golden(item, manifest, engine_dir, parity) for item in sound)


@dataclass(frozen=True)
class _Truth:
    """All that transformers is asked, so that its model need not stay in memory beside the ranks."""

    expected: list[Expected]
    far: Far | None
    apart: Apart | None
    problems: tuple[str, ...]
    """Logits of transformers that are no numbers, and windows that are not those that its config declares."""


def _ask(
    model: Any,
    manifest: Manifest,
    prompts: list[Prompt],
    *,
    proposed: Mapping[str, Sequence[int]],
    progress: Progress,
) -> _Truth:
    expected = expectations(model, manifest, prompts, proposed=proposed, progress=progress)
    return _Truth(
        expected=expected,
        far=expect_far(model, manifest, progress=progress),
        apart=expect_apart(model, manifest, progress=progress),
        problems=(*_no_numbers(expected), *window_problems(model.config.get_text_config(), manifest)),
    )


def _no_numbers(expected: list[Expected]) -> Iterator[str]:
    """Of a source whose own logits are no numbers nothing can be proven."""
    names = [item.prompt.name for item in expected if not item.logits.isfinite().all()]
    if names:
        yield (
            f"transformers' own logits are no numbers, of {len(names)} of {len(expected)} prompts: the "
            "source holds NaN or infinite weights, or such as make them; `tpforge inspect --deep` names the "
            "tensors"
        )


def _with_positions(parity: Parity, truth: _Truth, *, far_worst: float, apart_worst: float) -> Parity:
    """The parity of the prompts, and what positions past a threshold and tokens far apart add to it."""
    problems = list(truth.problems)
    if truth.far is not None and not far_worst < LOGIT_TOLERANCE:
        problems.append(
            f"a prompt of {len(truth.far.tokens)} tokens: logits of its last positions off by up to "
            f"{far_worst:.2e}, where windows and scaled ropes show"
        )
    if truth.apart is not None and parity.passed and not apart_worst < LOGIT_TOLERANCE:
        problems.append(
            f"tokens apart, at positions up to {truth.apart.places[-1]}: logits off by up to "
            f"{apart_worst:.2e}, while the prompts are right: a window or the rope is not the model's"
        )
    return parity.model_copy(
        update={
            "passed": parity.passed and not problems,
            "max_abs_logit_error": max(parity.max_abs_logit_error, far_worst, apart_worst),
            "problems": (*problems, *parity.problems),
        }
    )


def _measure_rounding(
    config: EngineConfig,
    manifest: Manifest,
    expected: list[Expected],
    differences: list[Difference],
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
                rounded = [rounded_by(item, forced_logits(item, executor)) for item in expected]
        logit, margin = max(one.logit for one in rounded), max(one.margin for one in rounded)
        progress(f"computed in {dtype}: logits off by up to {logit:.1e}, margins by {margin:.1e}")
        found.append(Rounding(compute_dtype=dtype, max_abs_logit_error=logit, max_margin_error=margin))
    return tuple(found)


def _summarize(
    expected: list[Expected], differences: list[Difference], rounding: tuple[Rounding, ...]
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
