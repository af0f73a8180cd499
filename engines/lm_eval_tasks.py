"""lm-eval's tasks on an engine, through its own API: an optional extra (`eval`).

Tasks, prompts and metrics are lm-eval's; tpforge answers its questions with the reference runtime. Most tasks
fetch their data sets from the hub; a folder of the user's own tasks needs no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.likelihood import LikelihoodModel
from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.extras import install_command
from tpforge.measure.runs.run import QualityScore
from tpforge.progress import Progress

_Z = 1.959963984540054
_DEFAULT_TOKENS = 128


def run_tasks(
    engine_dir: Path,
    names: Sequence[str],
    *,
    folder: Path | None = None,
    limit: int | None = None,
    progress: Progress,
) -> dict[str, QualityScore]:
    """Every metric of every task by ``TASK METRIC``, with lm-eval's standard error as a 95 % interval.

    `folder` has the user's own tasks (YAML); `limit` is the number of items of each task.

    Raises:
        EnvironmentUnusable: lm-eval is not installed.
        InputRefused: lm-eval knows no such task, or cannot get its data.
    """
    try:
        from lm_eval import simple_evaluate
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise EnvironmentUnusable(
            f"lm-eval cannot be imported ({error}); install it with: {install_command('eval')}"
        ) from error
    manager = TaskManager(include_path=str(folder) if folder is not None else None)
    if unknown := sorted(set(names) - set(manager.all_tasks)):
        raise InputRefused(f"lm-eval knows no task {', '.join(unknown)}; see: lm_eval --tasks list")
    with LikelihoodModel(engine_dir) as model:
        try:
            found = simple_evaluate(
                model=_adapter(model, progress),
                tasks=list(names),
                task_manager=manager,
                limit=limit,
                bootstrap_iters=0,
                log_samples=False,
            )
        except (OSError, ValueError) as error:
            raise InputRefused(f"lm-eval could not run {', '.join(names)}: {error}") from error
    return scores_of(found)


def scores_of(found: Mapping[str, Any]) -> dict[str, QualityScore]:
    """The scores in what lm-eval's `simple_evaluate` gives; keys there are ``METRIC,FILTER``."""
    scores = {}
    for task, values in found["results"].items():
        for key, value in values.items():
            metric, comma, of = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr,{of}")
            half = _Z * error if isinstance(error, int | float) else None
            direction = found.get("higher_is_better", {}).get(task, {}).get(metric, True)
            scores[f"{task} {metric}" + ("" if of == "none" else f" {of}")] = QualityScore(
                value=value,
                unit="score",
                higher_is_better=bool(direction),
                n=int(found.get("n-samples", {}).get(task, {}).get("effective", 0)),
                low=None if half is None else value - half,
                high=None if half is None else value + half,
                detail=f"lm-eval, version {found.get('versions', {}).get(task, 'unknown')} of the task",
            )
    return scores


def _adapter(model: LikelihoodModel, progress: Progress) -> Any:
    """The engine as lm-eval's LM; its base class is an optional import, so the class is made here."""
    from lm_eval.api.model import LM

    class Adapter(LM):  # type: ignore[misc]
        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            results = []
            for number, request in enumerate(requests, start=1):
                found = model.continuation(*request.args)
                results.append((found.log_prob, found.is_greedy))
                progress(f"lm-eval: {number} of {len(requests)} continuations")
            return results

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return [model.rolling(request.args[0]) for request in requests]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            answers = []
            for number, request in enumerate(requests, start=1):
                context, options = request.args
                until = options.get("until", [])
                answers.append(
                    model.generate(
                        context,
                        until=[until] if isinstance(until, str) else until,
                        max_tokens=options.get("max_gen_toks", _DEFAULT_TOKENS),
                    )
                )
                progress(f"lm-eval: {number} of {len(requests)} answers")
            return answers

    return Adapter()
