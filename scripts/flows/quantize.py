"""What the quantization of an engine cost: composes builders and engines.

It prints nothing and quantizes nothing; `calibrate` has what `tpforge quantize` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tpforge.errors import RegressionFound, UsageError, VerificationFailed
from tpforge.manifest import Manifest, Quality, WeightError
from tpforge.progress import Progress
from tpforge.quantization import Quantization

if TYPE_CHECKING:
    from builders.sources.base import Source


def quality_of(
    engine: Path,
    manifest: Manifest,
    source: Source,
    *,
    weight_errors: tuple[WeightError, ...],
    progress: Progress,
) -> Quality:
    """What the quantization of an engine cost; the limit is the one it was built with."""
    from engines.quality import measure_quality

    if source.quantized is not None:
        raise UsageError(
            f"{source.location}: is quantized, so that it is no baseline; give an unquantized one"
        )
    quality = measure_quality(engine, manifest, source_path=source.path, progress=progress)
    return quality.model_copy(
        update={
            "weight_errors": weight_errors,
            "max_drop": manifest.quality.max_drop if manifest.quality else None,
            "not_emulated": _not_emulated(manifest.quantization),
        }
    )


def _not_emulated(quantization: Quantization | None) -> tuple[str, ...]:
    """What a GPU would round and the reference runtime does not."""
    weights = quantization.weights if quantization else None
    if weights is None or weights.activations == "float":
        return ()
    return (f"activations are not rounded to {weights.activations}",)


def refuse_drop(quality: Quality, *, limit: float, where: Path) -> None:
    """Raise RegressionFound when the perplexity grew by more than the fraction `limit`."""
    if not quality.perplexity_drop <= limit:
        raise RegressionFound(
            f"{where}: quantization raised the perplexity from {quality.baseline_perplexity:.3f} to "
            f"{quality.perplexity:.3f}, by {quality.perplexity_drop:.2%}; --max-drop allows {limit:.2%}; "
            "use a format with more bits, or a larger limit"
        )


def measure_drop(
    folder: Path, manifest: Manifest, source: Source, *, limit: float, where: Path, progress: Progress
) -> Manifest:
    """The manifest of an engine that is not published yet, with its quality, which is within `limit`.

    Raises:
        RegressionFound: it is not.
    """
    from builders.conversion.planned import plan_of
    from builders.proof.verify import verify_shards

    progress(f"measuring what {manifest.quantization and manifest.quantization.format} costs")
    report = verify_shards(source, folder / "checkpoint", plan=plan_of(manifest), dtype=manifest.dtype)
    if report.problems:
        raise VerificationFailed("\n  ".join([f"{where}: is not what was planned:", *report.problems]))
    quality = quality_of(folder, manifest, source, weight_errors=report.weight_errors, progress=progress)
    quality = quality.model_copy(update={"max_drop": limit})
    refuse_drop(quality, limit=limit, where=where)
    return manifest.model_copy(update={"quality": quality})
