"""`tpforge verify`: the proof of an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from scripts import _options
from scripts._output import Output, table
from tpforge.errors import VerificationFailed

if TYPE_CHECKING:
    from tpforge.manifest import Parity


@click.command("verify")
@_options.ENGINE
@click.option("--model", help="Where the source lies, when it has moved since the build.")
@_options.JSON
@_options.DEBUG
def command(engine: str | None, model: str | None, as_json: bool) -> None:
    """Prove an engine against its source and against transformers.

    ENGINE is a folder, or a name under out/; without it the newest one there. Every tensor is put together
    from the ranks and compared bit for bit with the source; then the ranks answer real prompts, and their
    logits and greedy tokens are compared with those of transformers in float32. Writes parity.json, and
    the golden answers into engine.json. Exit status 6 when something differs.
    """
    from scripts import proving
    from scripts.locations import find_engine

    output = Output(as_json=as_json)
    places = find_engine(engine)
    if engine is None:
        output.note(f"engine: {places.engine} (the newest)")
    verified = proving.verify_engine(places, model=model, progress=output.progress)
    parity = verified.parity
    output.result(table(parity_rows(parity), header=("what", "measured")))
    output.record(
        "verification",
        {
            "path": str(places.engine),
            "parity": parity.model_dump(mode="json"),
            "golden": [answer.model_dump(mode="json") for answer in verified.manifest.golden],
        },
    )
    if not parity.passed:
        raise VerificationFailed(
            "\n  ".join([f"{places.engine}: is not what its source computes:", *parity.problems])
        )


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
        (
            f"largest logit error as served, {parity.served_dtype}",
            f"{parity.served_max_abs_logit_error:.1e}",
        ),
        ("mean KL divergence", f"{parity.mean_kl_divergence:.1e}"),
        ("top-1 agreement", f"{parity.top1_agreement:.2%}"),
        ("greedy tokens equal", f"{parity.num_greedy_equal} of {parity.num_greedy_tokens}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in parity.versions.items())),
        ("verdict", "passed" if parity.passed else "FAILED"),
    ]
