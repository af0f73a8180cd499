"""A chat message as the prompt that the model was trained on, by the tokenizer's own template.

Transformers renders it, in its sandbox and within bounds. The template and the special tokens
are read from the tokenizer's files, so that a tokenizer whose class is code of its own has a prompt too. It
does not tokenize.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engines.bounded import call_bounded
from tpforge.errors import InputRefused
from tpforge.extras import require_extra

MAX_TEMPLATE = 1_000_000
"""Characters; the largest that are published have some 20 000."""


def chat_prompt(tokenizer_dir: Path, message: str, *, system: str | None = None) -> str:
    """The prompt for one user message, open for the assistant's answer.

    Raises:
        InputRefused: the tokenizer has no chat template, or the template refuses the message.
    """
    messages = [{"role": "system", "content": system}] if system else []
    return render_chat(tokenizer_dir, [*messages, {"role": "user", "content": message}])


def chat_prompts(tokenizer_dir: Path, messages: Sequence[str]) -> list[str]:
    """As `chat_prompt`, for each of several messages that have nothing to do with one another."""
    return render_chats(tokenizer_dir, [[{"role": "user", "content": message}] for message in messages])


def render_chat(tokenizer_dir: Path, messages: Sequence[Mapping[str, str]]) -> str:
    """The prompt for a conversation; see `render_chats`."""
    return render_chats(tokenizer_dir, [messages])[0]


def render_chats(tokenizer_dir: Path, conversations: Sequence[Sequence[Mapping[str, str]]]) -> list[str]:
    """The prompts for several conversations, rendered by one process within one process' bounds.

    Raises:
        EnvironmentUnusable: transformers is not installed.
        InputRefused: the tokenizer has no chat template, or the template refuses the messages.
    """
    require_extra("chat", needed_by="a chat message")
    # Imported here and not in the process that renders, which is a copy of this one.
    from transformers.utils.chat_template_utils import render_jinja_template

    template = find_template(tokenizer_dir)
    if template is None:
        raise InputRefused(
            f"{tokenizer_dir}: the tokenizer has no chat template; give the prompt itself, without --chat"
        )
    if len(template) > MAX_TEMPLATE:
        raise InputRefused(
            f"{tokenizer_dir}: its chat template has {len(template)} characters, expected at most "
            f"{MAX_TEMPLATE}"
        )
    tokens = _special_tokens(tokenizer_dir)

    def render() -> list[str]:
        prompts, _ = render_jinja_template(
            conversations=[[dict(message) for message in messages] for messages in conversations],
            chat_template=template,
            add_generation_prompt=True,
            **tokens,
        )
        return [str(prompt) for prompt in prompts]

    try:
        return call_bounded(render, what="the chat template refuses the message")
    except InputRefused as error:
        raise InputRefused(f"{tokenizer_dir}: {error}; give a plain prompt instead") from error


def find_template(tokenizer_dir: Path) -> str | None:
    """chat_template.jinja, else `chat_template` of tokenizer_config.json: a text, or the default of several.

    Where neither has one, chat_template.json, in which processors of transformers 4 keep it.

    Raises:
        InputRefused: a file is not UTF-8, or no JSON.
    """
    file = tokenizer_dir / "chat_template.jinja"
    if file.is_file():
        return _text(file)
    for name in ("tokenizer_config.json", "chat_template.json"):
        template = _read(tokenizer_dir / name).get("chat_template")
        if isinstance(template, list):
            defaults = [one for one in template if isinstance(one, dict) and one.get("name") == "default"]
            template = defaults[-1].get("template") if defaults else None
        if isinstance(template, str) and template:
            return template
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputRefused(f"{file}: is not UTF-8: {error.reason} at byte {error.start}") from error


def _special_tokens(tokenizer_dir: Path) -> dict[str, str]:
    """`bos_token` and its like, which are strings or objects with a `content`.

    Older tokenizers have them in special_tokens_map.json alone.
    """
    tokens = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        for key, value in _read(tokenizer_dir / name).items():
            content = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(content, str):
                tokens[key] = content
    return tokens


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputRefused(f"{path}: not valid JSON: {error}") from error
    return value if isinstance(value, dict) else {}
