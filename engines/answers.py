"""Greedy answers of an engine to many prompts, batched in flight by the reference runtime: no server needed.

It looks at no answer; `tpforge.measure.quality` does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from engines.reference import Event, RequestError, Sampling, Scheduler
from tpforge.errors import VerificationFailed
from tpforge.progress import Progress


@dataclass(frozen=True)
class Question:
    """A prompt as it is sent, and the most tokens that its answer may have."""

    id: str
    text: str
    max_tokens: int


@dataclass
class _Answer:
    """The tokens of one answer as they come."""

    tokens: list[int] = field(default_factory=list)
    error: str | None = None


def answer_greedily(
    engine_dir: Path, questions: Sequence[Question], *, progress: Progress
) -> tuple[dict[str, str], dict[str, str]]:
    """The answers by the ids of their questions, and why some have none: they do not fit the engine.

    Raises:
        VerificationFailed: the ranks failed while answering.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(engine_dir / "tokenizer" / "tokenizer.json"))
    refused: dict[str, str] = {}
    answers: dict[str, _Answer] = {}
    open_questions = threading.Semaphore(0)
    scheduler = Scheduler(engine_dir)
    try:
        for question in questions:
            ids = tokenizer.encode(question.text).ids
            room = min(question.max_tokens, scheduler.limits.max_seq_len - len(ids))
            answer = _Answer()
            try:
                scheduler.submit(ids, Sampling(max_tokens=max(1, room)), _collect(answer, open_questions))
            except RequestError as error:
                refused[question.id] = str(error)
            else:
                answers[question.id] = answer
        for number in range(1, len(answers) + 1):
            open_questions.acquire()
            progress(f"answers: {number} of {len(answers)}")
    finally:
        scheduler.close()
    if failed := [f"{name}: {answer.error}" for name, answer in answers.items() if answer.error]:
        raise VerificationFailed("\n  ".join(["the engine did not answer:", *failed]))
    ends = set(scheduler.end_ids)
    return {
        name: str(tokenizer.decode([token for token in answer.tokens if token not in ends]))
        for name, answer in answers.items()
    }, refused


def _collect(answer: _Answer, done: threading.Semaphore) -> Callable[[Event], None]:
    def on_event(event: Event) -> None:
        answer.tokens.extend(event.token_ids)
        answer.error = event.error or answer.error
        if event.finished:
            done.release()

    return on_event
