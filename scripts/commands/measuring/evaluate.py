"""`tpforge evaluate`: how good the answers of an engine or a server are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scripts.cli.options.common import DEBUG, JSON, SIZE, Amount
from scripts.cli.output import Output
from scripts.reports.columns import table
from tpforge.errors import UsageError

if TYPE_CHECKING:
    from tpforge.measure.quality import Evaluation

_DEFAULT_PROMPTS = "easy,average,high-value,multilingual,structured-output"


@click.command("evaluate")
@click.argument("target", metavar="[ENGINE|HOST:PORT]", required=False)
@click.option("--baseline", metavar="RUN|ENGINE|FILE", help="What to compare with: it was evaluated before.")
@click.option("--run", "run_name", metavar="RUN", help="Keep the scores with this run of the same engine.")
@click.option(
    "--prompts", default=_DEFAULT_PROMPTS, show_default=True, metavar="SET|FILE", help="What to ask."
)
@click.option(
    "--text",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Paragraphs for the perplexity.  [default: eight that ship]",
)
@click.option(
    "--chat-template/--no-chat-template",
    "chat",
    default=True,
    show_default=True,
    help="Put prompts into the model's chat template.",
)
@click.option("--lm-eval", "tasks", metavar="TASK,TASK...", help="Run tasks of lm-eval too (an extra).")
@click.option(
    "--tasks-path",
    "tasks_folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Your own lm-eval tasks.",
)
@click.option("--limit", type=SIZE, help="Items of each lm-eval task.  [default: all]")
@click.option(
    "--max-drop",
    type=Amount(min=0),
    metavar="PERCENT",
    help="Fail when perplexity is higher, or a share of good answers lower, by more.",
)
@click.option(
    "--min-agreement",
    type=Amount(0, 100),
    metavar="PERCENT",
    help="Fail when greedy answers run with the baseline's for less.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where to keep it.  [default: beside the engine]",
)
@JSON
@DEBUG
def command(
    target: str | None,
    baseline: str | None,
    run_name: str | None,
    tasks: str | None,
    out: Path | None,
    as_json: bool,
    **values: Any,
) -> None:
    """Measure the quality of answers, and compare it with a baseline.

    ENGINE is a folder or a name under out/ (without it the newest one), run by the reference runtime;
    HOST:PORT is a server's gRPC. Perplexity needs an engine here. Greedy answers are checked for valid
    structured output and for texts that a right answer holds, and compared with those of the baseline. Exit
    status 7 when quality has fallen by more than a limit.
    """
    from scripts.flows.evaluate import Options, evaluate_and_keep
    from tpforge.measure.evaluation import apply_limits

    output = Output(as_json=as_json)
    limits = {name: values.pop(name) for name in ("max_drop", "min_agreement")}
    if baseline is None and any(limit is not None for limit in limits.values()):
        raise UsageError("a limit needs something to compare with: give --baseline RUN")
    options = Options(tasks=tuple(tasks.split(",")) if tasks else (), **values)
    kept = evaluate_and_keep(
        target, options, baseline=baseline, run=run_name, out=out, progress=output.progress
    )
    if kept.run_folder is not None:
        output.note(f"kept with {kept.run_folder}")
    if kept.file is not None:
        output.note(f"wrote {kept.file}")
    evaluation = kept.evaluation
    output.result(_text(evaluation))
    fields = json.loads(evaluation.model_dump_json(exclude={"answers"}))
    fields.pop("schema_version")
    output.record("evaluation", fields)
    apply_limits(evaluation, kept.baseline, **limits)


def _text(evaluation: Evaluation) -> str:
    rows = [
        (
            name.replace("_", " "),
            f"{score.value:.2f} {score.unit}",
            f"[{score.low:.2f}, {score.high:.2f}]"
            if score.low is not None and score.high is not None
            else "-",
            str(score.n),
            score.detail + (f", against {score.baseline}" if score.baseline else ""),
        )
        for name, score in evaluation.scores.items()
    ]
    lines = [table(rows, header=("score", "value", "95 %", "n", "of"))]
    lines += [f"{name}: not measured: {why}" for name, why in evaluation.unavailable.items()]
    lines += [f"{name}: {problem}" for name, problem in sorted(evaluation.problems.items())]
    return "\n".join(lines)
