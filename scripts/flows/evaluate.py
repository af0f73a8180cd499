"""The quality of an engine or a server: asked, scored, compared with a baseline, kept beside a run.

Composes engines and triton_repo; what scores mean is `tpforge.measure.quality`. It prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from scripts.flows.chat import chat_prompt
from scripts.flows.compare import FoundRun, find_run
from scripts.flows.places import Places, find_engine
from tpforge import __version__
from tpforge.atomic import os_errors, write_atomic
from tpforge.errors import InputRefused, RegressionFound, UsageError
from tpforge.measure.prompts import DEFAULT_MAX_TOKENS, Prompt, hash_prompts
from tpforge.measure.quality import (
    QUALITY_NAME,
    Evaluation,
    Passage,
    expected_text,
    greedy_agreement,
    perplexity,
    perplexity_increase,
    quality_losses,
    structured_validity,
)
from tpforge.measure.run import RUN_NAME, QualityScore, update_run
from tpforge.written import renew_record

Progress = Callable[[str], None]
DEFAULT_PROMPTS = "easy,average,high-value,multilingual,structured-output"
_AT_ONCE = 4


@dataclass(frozen=True)
class Options:
    """What is asked; `text` is a file whose perplexity is computed, instead of that of what ships."""

    prompts: str = DEFAULT_PROMPTS
    text: Path | None = None
    chat: bool = True
    deadline_s: float = 120.0
    tasks: tuple[str, ...] = ()
    tasks_folder: Path | None = None
    limit: int | None = None


@dataclass(frozen=True)
class Baseline:
    """An evaluation to compare with; `id` is that of its run, or the file it lies in."""

    id: str
    evaluation: Evaluation


@dataclass(frozen=True)
class _Target:
    """What is evaluated: an engine here, a server, or a server whose engine is here."""

    name: str
    url: str | None
    places: Places | None


def evaluate(
    given: str | None, options: Options, *, baseline: Baseline | None = None, progress: Progress
) -> Evaluation:
    """Ask an engine, or a server by its URL, and score what it says.

    Raises:
        UsageError: there is no such engine, or the prompts are no set.
        InputRefused: prompts or text are wrong, or nothing could be scored.
        VerificationFailed: the engine failed while answering.
    """
    from engines.store import read_manifest
    from triton_repo.load.prompt_sets import load_prompts

    target = _find_target(given)
    unavailable: dict[str, str] = {}
    prompts = _as_sent(load_prompts(options.prompts), target, options, unavailable)
    passages = _passages(target, options, unavailable, progress)
    answers, refused = _answers(target, prompts, options, progress)
    structured, wrong_form = structured_validity(prompts, answers)
    expected, wrong_text = expected_text(prompts, answers)
    found = {
        "perplexity": perplexity(passages) if passages else None,
        "structured_validity": structured,
        "expected_text": expected,
    }
    tasks = _tasks(target, options, unavailable, progress)
    evaluation = Evaluation(
        tpforge_version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        source=target.name,
        engine=read_manifest(target.places.engine).name if target.places else None,
        prompts=options.prompts,
        prompts_sha256=hash_prompts(prompts),
        passages=passages,
        answers=answers,
        scores={name: score for name, score in found.items() if score is not None} | tasks,
        unavailable=unavailable,
        problems={**refused, **wrong_text, **wrong_form},
    )
    evaluation = evaluation if baseline is None else against(evaluation, baseline)
    if not evaluation.scores:
        raise InputRefused(f"{target.name}: nothing could be scored: {_listed(evaluation.unavailable)}")
    return evaluation


def against(evaluation: Evaluation, baseline: Baseline) -> Evaluation:
    """The evaluation with the scores that are measured against a baseline, or why they can't be."""
    scores, unavailable = dict(evaluation.scores), dict(evaluation.unavailable)
    before = baseline.evaluation
    if evaluation.passages:
        increase = perplexity_increase(before.passages, evaluation.passages, baseline_id=baseline.id)
        if isinstance(increase, str):
            unavailable["perplexity_increase"] = increase
        else:
            scores["perplexity_increase"] = increase
    if before.prompts_sha256 != evaluation.prompts_sha256:
        unavailable["greedy_agreement"] = "the baseline was asked other prompts"
    elif agreement := greedy_agreement(before.answers, evaluation.answers, baseline_id=baseline.id):
        scores["greedy_agreement"] = agreement
    return evaluation.model_copy(update={"scores": scores, "unavailable": unavailable})


def read_baseline(given: str) -> Baseline:
    """The evaluation kept with a run, beside an engine, or in a file.

    Raises:
        UsageError: there is neither.
        InputRefused: the run was not evaluated, or the file is broken.
    """
    if Path(given).is_file() and Path(given).name != RUN_NAME:
        return Baseline(given, _read(Path(given)))
    kept = default_file(find_engine(given))
    if kept.is_file() and not (Path(given) / RUN_NAME).is_file():
        return Baseline(str(kept), _read(kept))
    found = find_run(given)
    file = found.folder / QUALITY_NAME
    if not file.is_file():
        raise InputRefused(
            f"{found.folder}: its quality was not measured; run tpforge evaluate ENGINE --run {given} first"
        )
    return Baseline(found.run.id, _read(file))


def default_file(places: Places) -> Path:
    """Where the evaluation of an engine is kept: beside it."""
    return places.stages.with_name(places.stages.name.replace("stages.json", QUALITY_NAME))


def keep(evaluation: Evaluation, file: Path) -> None:
    """Write quality.json."""
    with os_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, evaluation.model_dump_json(indent=2) + "\n")


def keep_with_run(evaluation: Evaluation, found: FoundRun) -> None:
    """Write quality.json into a run's folder, and its scores into run.json.

    Raises:
        InputRefused: the run is of another engine than the evaluated one.
    """
    measured, engine = found.run.engine["name"].value, evaluation.engine
    if engine is not None and measured is not None and measured != engine:
        raise InputRefused(
            f"{found.folder}: is a run of {measured}, but {engine} was evaluated; evaluate {measured}, or "
            "give a run of it"
        )
    keep(evaluation, found.folder / QUALITY_NAME)
    renew_record(found.folder, QUALITY_NAME)
    update_run(found.folder, found.run.model_copy(update={"quality": evaluation.scores}))


def evaluated_engine(given: str | None) -> Places | None:
    """The engine that a name or URL stands for, where it lies here."""
    return _find_target(given).places


def apply_limits(
    evaluation: Evaluation, baseline: Baseline | None, *, max_drop: float | None, min_agreement: float | None
) -> None:
    """Refuse a quality that has fallen too far.

    Raises:
        UsageError: a limit without a baseline.
        InputRefused: nothing of both can be compared.
        RegressionFound: a score is worse by more than `max_drop`, or answers agree less than `min_agreement`.
    """
    if max_drop is None and min_agreement is None:
        return
    if baseline is None:
        raise UsageError("a limit needs something to compare with: give --baseline RUN")
    scores = evaluation.scores
    losses = quality_losses(scores, baseline.evaluation.scores)
    failed = []
    if max_drop is not None:
        if not losses:
            raise InputRefused(f"--max-drop: nothing can be compared: {_listed(evaluation.unavailable)}")
        failed += [
            f"{name} is worse by {loss:.2f} (limit {max_drop:g})"
            for name, loss in losses.items()
            if loss > max_drop
        ]
    if min_agreement is not None:
        if "greedy_agreement" not in scores:
            raise InputRefused(f"--min-agreement: not measured: {_listed(evaluation.unavailable)}")
        if scores["greedy_agreement"].value < min_agreement:
            failed.append(
                f"greedy answers agree by {scores['greedy_agreement'].value:.1f} % (limit {min_agreement:g})"
            )
    if failed:
        raise RegressionFound(
            "\n  ".join([f"{evaluation.source}: quality has fallen against {baseline.id}:", *failed])
        )


def _find_target(given: str | None) -> _Target:
    from scripts.flows.serve import find_server

    if given is not None and ":" in given and not Path(given).exists():
        url, _, places = find_server(given)
        return _Target(url, url, places)
    places = find_engine(given)
    if not (places.engine / "engine.json").is_file():
        raise UsageError(
            f"{given}: neither an engine nor HOST:PORT of a server; `tpforge engines list` shows engines"
        )
    return _Target(str(places.engine), None, places)


def _as_sent(
    prompts: Sequence[Prompt], target: _Target, options: Options, unavailable: dict[str, str]
) -> tuple[Prompt, ...]:
    """The prompts in the chat template of the engine, where it is known and has one."""
    if not options.chat:
        return tuple(prompts)
    if target.places is None:
        unavailable["chat template"] = (
            "the engine of the server is not known here; prompts were sent as they are"
        )
        return tuple(prompts)
    folder = target.places.engine / "tokenizer"
    try:
        return tuple(
            prompt.model_copy(update={"text": chat_prompt(folder, prompt.text)}) for prompt in prompts
        )
    except InputRefused as error:
        unavailable["chat template"] = f"prompts were sent as they are: {error}"
        return tuple(prompts)


def _passages(
    target: _Target, options: Options, unavailable: dict[str, str], progress: Progress
) -> tuple[Passage, ...]:
    """Losses need logits, which a server does not give: they come from the engine, run here."""
    from engines.perplexity import load_texts, measure_passages
    from engines.store import read_manifest

    if target.places is None:
        unavailable["perplexity"] = "needs the engine; only its server is known here"
        return ()
    manifest = read_manifest(target.places.engine)
    if manifest.runtime != "reference":
        unavailable["perplexity"] = (
            f"of a {manifest.runtime} engine needs TensorRT-LLM on a GPU, which was not run here"
        )
        return ()
    return measure_passages(target.places.engine, load_texts(options.text), progress=progress)


def _tasks(
    target: _Target, options: Options, unavailable: dict[str, str], progress: Progress
) -> dict[str, QualityScore]:
    """The scores of lm-eval's tasks, which ask for likelihoods, as a server does not give them."""
    from scripts.flows.lm_eval_tasks import run_tasks

    if not options.tasks:
        return {}
    if target.places is None or "perplexity" in unavailable:
        unavailable["lm-eval"] = unavailable.get("perplexity", "needs the engine")
        return {}
    return run_tasks(
        target.places.engine,
        options.tasks,
        folder=options.tasks_folder,
        limit=options.limit,
        progress=progress,
    )


def _answers(
    target: _Target, prompts: Sequence[Prompt], options: Options, progress: Progress
) -> tuple[dict[str, str], dict[str, str]]:
    if target.url is None:
        from engines.answers import Question, answer_greedily

        assert target.places is not None
        questions = [Question(one.id, one.text, one.max_tokens or DEFAULT_MAX_TOKENS) for one in prompts]
        return answer_greedily(target.places.engine, questions, progress=progress)
    return _ask_server(target.url, prompts, options, progress)


def _ask_server(
    url: str, prompts: Sequence[Prompt], options: Options, progress: Progress
) -> tuple[dict[str, str], dict[str, str]]:
    """Greedy answers over gRPC, several at once; a refused prompt is named, a dead server raises."""
    from triton_repo.client.client import Client, RequestRefused

    answers: dict[str, str] = {}
    refused: dict[str, str] = {}

    with Client(url, deadline_s=options.deadline_s) as client:

        def ask(prompt: Prompt) -> None:
            length = prompt.max_tokens or DEFAULT_MAX_TOKENS
            try:
                answers[prompt.id] = client.generate(prompt.text, max_tokens=length).text
            except RequestRefused as error:
                refused[prompt.id] = f"refused: {error}"
            progress(f"answers: {len(answers)} of {len(prompts)}")

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for done in [pool.submit(ask, prompt) for prompt in prompts]:
                done.result()
    return answers, refused


def _read(file: Path) -> Evaluation:
    with os_errors(file):
        text = file.read_text("utf-8")
    try:
        return Evaluation.model_validate_json(text)
    except ValidationError as error:
        raise InputRefused(f"{file}: is not a {QUALITY_NAME} of this version of tpforge: {error}") from error


def _listed(reasons: dict[str, str]) -> str:
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "no reason is known"
