"""The quality of an engine or a server: asked, scored, compared with a baseline, and kept.

Composes engines and triton_repo; what scores mean is `tpforge.measure.quality`, how they are
kept `tpforge.measure.evaluation`. It prints nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from engines.chat import chat_prompts
from engines.store import read_manifest
from scripts.flows.serve import find_server
from tpforge import __version__
from tpforge.errors import InputRefused, UsageError
from tpforge.extras import require_extra
from tpforge.measure.evaluation import (
    Baseline,
    against,
    default_file,
    keep,
    keep_with_run,
    listed,
    read_baseline,
    refuse_other_engine,
)
from tpforge.measure.json_schema import require_known
from tpforge.measure.quality import (
    Evaluation,
    Passage,
    expected_text,
    outcomes_of,
    perplexity,
    structured_validity,
)
from tpforge.measure.runs.found_runs import find_run
from tpforge.measure.runs.prompts import DEFAULT_MAX_TOKENS, Prompt, hash_prompts
from tpforge.measure.runs.run import QualityScore
from tpforge.outputs.atomic import claimed, refuse_folder
from tpforge.outputs.places import Places, find_engine
from tpforge.progress import Progress
from triton_repo.load.prompt_sets import load_prompts

DEFAULT_PROMPTS = "easy,average,high-value,multilingual,structured-output"


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
class _Target:
    """What is evaluated: an engine here, a server, or a server whose engine is here."""

    name: str
    url: str | None
    places: Places | None


@dataclass(frozen=True)
class Kept:
    """An evaluation, what it was compared with, and where it was kept: with a run, in a file, or both."""

    evaluation: Evaluation
    baseline: Baseline | None
    run_folder: Path | None
    file: Path | None


def evaluate_and_keep(
    given: str | None,
    options: Options,
    *,
    baseline: str | None = None,
    run: str | None = None,
    out: Path | None = None,
    progress: Progress,
) -> Kept:
    """Evaluate an engine, or a server by its URL, against a baseline, both by name, and keep the result.

    It is kept with the run of that name, in `out`, or, where neither is given, beside the engine. Asking
    takes minutes, so these places are held before, and nobody changes them meanwhile.

    Raises:
        UsageError, InputRefused, VerificationFailed: as `evaluate`; or the run is of another engine.
    """
    before = read_baseline(baseline) if baseline is not None else None
    places = _find_target(given).places
    with ExitStack() as held:
        found = find_run(run) if run is not None else None
        if found is not None:
            held.enter_context(claimed(found.folder))
            found = find_run(str(found.folder))
            refuse_other_engine(found, engine=_engine_name(places))
        file = out or (default_file(places) if places and found is None else None)
        if file is not None:
            refuse_folder(file)
            held.enter_context(claimed(file))
        evaluation = evaluate(given, options, baseline=before, progress=progress)
        if found is not None:
            keep_with_run(evaluation, found)
        if file is not None:
            keep(evaluation, file)
    return Kept(evaluation, before, found.folder if found else None, file)


def evaluate(
    given: str | None, options: Options, *, baseline: Baseline | None = None, progress: Progress
) -> Evaluation:
    """Ask an engine, or a server by its URL, and score what it says.

    Raises:
        UsageError: there is no such engine, or the prompts are no set.
        InputRefused: prompts or text are wrong, or nothing could be scored.
        VerificationFailed: the engine failed while answering.
    """
    target = _find_target(given)
    if target.url is None:
        require_extra("convert", needed_by="evaluating an engine without its server")
    unavailable: dict[str, str] = {}
    asked = load_prompts(options.prompts)
    for prompt in asked:
        require_known(prompt.json_schema or {}, where=prompt.id)
    prompts = _as_sent(asked, target, options, unavailable)
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
        engine=_engine_name(target.places),
        prompts=options.prompts,
        prompts_sha256=hash_prompts(prompts),
        passages=passages,
        answers=answers,
        scores={name: score for name, score in found.items() if score is not None} | tasks,
        outcomes=outcomes_of(
            prompts, answers, {"structured_validity": wrong_form, "expected_text": wrong_text}
        ),
        unavailable=unavailable,
        problems={**refused, **wrong_text, **wrong_form},
    )
    evaluation = evaluation if baseline is None else against(evaluation, baseline)
    if not evaluation.scores:
        raise InputRefused(f"{target.name}: nothing could be scored: {listed(evaluation.unavailable)}")
    return evaluation


def _engine_name(places: Places | None) -> str | None:
    """The name of an engine that lies here."""
    return read_manifest(places.engine).name if places else None


def _find_target(given: str | None) -> _Target:
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
        texts = chat_prompts(folder, [prompt.text for prompt in prompts])
    except InputRefused as error:
        unavailable["chat template"] = f"prompts were sent as they are: {error}"
        return tuple(prompts)
    return tuple(
        prompt.model_copy(update={"text": text}) for prompt, text in zip(prompts, texts, strict=True)
    )


def _passages(
    target: _Target, options: Options, unavailable: dict[str, str], progress: Progress
) -> tuple[Passage, ...]:
    """Losses need logits, which a server does not give: they come from the engine, run here."""
    from engines.perplexity import load_texts, measure_passages

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
    if not options.tasks:
        return {}
    if target.places is None or "perplexity" in unavailable:
        unavailable["lm-eval"] = unavailable.get("perplexity", "needs the engine")
        return {}
    from engines.lm_eval_tasks import run_tasks

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
    from triton_repo.client.greedy_answers import ask_greedily

    return ask_greedily(target.url, prompts, deadline_s=options.deadline_s, progress=progress)
