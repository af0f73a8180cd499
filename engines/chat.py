"""A chat message as the prompt that the model was trained on, by the tokenizer's own template.

It runs the template in the sandbox that transformers uses, and does not tokenize.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tpforge.errors import InputRefused


def chat_prompt(tokenizer_dir: Path, message: str, *, system: str | None = None) -> str:
    """The prompt for one user message, open for the assistant's answer.

    Raises:
        InputRefused: the tokenizer has no chat template, or the template refuses the message.
    """
    messages = [{"role": "system", "content": system}] if system else []
    return render_chat(tokenizer_dir, [*messages, {"role": "user", "content": message}])


def render_chat(tokenizer_dir: Path, messages: Sequence[Mapping[str, str]]) -> str:
    """The prompt for a conversation.

    Raises:
        InputRefused: the tokenizer has no chat template, or the template refuses the messages.
    Source: transformers 5, utils/chat_template_utils.py: same environment, filters and variables.
    """
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    config = _config(tokenizer_dir)
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_template_error
    environment.globals["strftime_now"] = _strftime_now
    try:
        template = environment.from_string(_template(tokenizer_dir, config))
        return template.render(
            messages=[dict(message) for message in messages],
            add_generation_prompt=True,
            tools=None,
            documents=None,
            **_special_tokens(config),
        )
    except TemplateError as error:
        raise InputRefused(
            f"{tokenizer_dir}: the chat template refuses the message: {error}; give a plain prompt instead"
        ) from error


def _config(tokenizer_dir: Path) -> dict[str, Any]:
    path = tokenizer_dir / "tokenizer_config.json"
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}


def _template(tokenizer_dir: Path, config: Mapping[str, Any]) -> str:
    """chat_template.jinja, else `chat_template` of tokenizer_config.json: a string, or several by name."""
    file = tokenizer_dir / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {item.get("name"): item.get("template") for item in template}
        template = named.get("default")
    if isinstance(template, str):
        return template
    raise InputRefused(
        f"{tokenizer_dir}: the tokenizer has no chat template; give the prompt itself, without --chat"
    )


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token` and its like, which are strings or objects with a `content`."""
    tokens = {}
    for name, value in config.items():
        if name.endswith("_token"):
            content = value.get("content") if isinstance(value, dict) else value
            if isinstance(content, str):
                tokens[name] = content
    return tokens


def _tojson(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    """Jinja's own escapes HTML characters, which a prompt must not."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _raise_template_error(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _strftime_now(pattern: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(pattern)
