"""Shows what was proven of an engine, and what quantization cost it, as rows of tables. It proves nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tpforge.manifest import Parity, Quality


def quality_rows(quality: Quality) -> list[tuple[str, str]]:
    """What quantization cost, as rows of a table."""
    errors = [error.relative for error in quality.weight_errors]
    rows = [
        ("baseline", quality.baseline),
        (
            "perplexity",
            f"{quality.perplexity:.3f}, baseline {quality.baseline_perplexity:.3f}: "
            f"{quality.perplexity_drop:+.2%}  (n={quality.num_text_tokens} tokens)",
        ),
        ("mean KL divergence", f"{quality.mean_kl_divergence:.1e}  (n={quality.num_positions} positions)"),
        ("top-1 agreement", f"{quality.top1_agreement:.2%}"),
        ("greedy tokens equal", f"{quality.num_greedy_equal} of {quality.num_greedy_tokens}"),
    ]
    if errors:
        mean, worst = sum(errors) / len(errors), max(errors)
        rows.append(("relative weight error", f"mean {mean:.2%}, largest {worst:.2%}  (n={len(errors)})"))
    rows += [("not emulated", what) for what in quality.not_emulated]
    return rows


def parity_rows(parity: Parity) -> list[tuple[str, str]]:
    """The proof as rows of a table."""
    equal = parity.num_tensors - parity.num_unequal_tensors
    return [
        ("tensors equal to the source", f"{equal} of {parity.num_tensors}"),
        (
            "largest logit error",
            f"{parity.max_abs_logit_error:.1e}  (below {parity.logit_tolerance:.0e}; "
            f"{parity.num_positions} positions of {parity.num_prompts} prompts, float32)",
        ),
        *(
            (
                f"logit error computed in {one.compute_dtype}",
                f"{one.max_abs_logit_error:.1e}; "
                f"margins of greedy tokens off by up to {one.max_margin_error:.1e}",
            )
            for one in parity.rounding
        ),
        ("mean KL divergence", f"{parity.mean_kl_divergence:.1e}"),
        ("top-1 agreement", f"{parity.top1_agreement:.2%}"),
        ("greedy tokens equal", f"{parity.num_greedy_equal} of {parity.num_greedy_tokens}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in parity.versions.items())),
        ("verdict", "passed" if parity.passed else "FAILED"),
    ]
