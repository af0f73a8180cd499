"""Prompts asked of a server over gRPC, several at once, for their greedy answers.

It measures no time and scores nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tpforge.measure.runs.prompts import DEFAULT_MAX_TOKENS, Prompt
from tpforge.progress import Progress
from triton_repo.client.client import Client, RequestRefused

_AT_ONCE = 4


def ask_greedily(
    url: str, prompts: Sequence[Prompt], *, deadline_s: float, progress: Progress
) -> tuple[dict[str, str], dict[str, str]]:
    """The answers by prompt, and why a prompt was refused; a dead server raises."""
    answers: dict[str, str] = {}
    refused: dict[str, str] = {}

    with Client(url, deadline_s=deadline_s) as client:

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
