"""engines.chat: a chat template gives the very prompt that transformers gives."""

import json
import os
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from builders.audit.tokenizer import find_tokenizer
from engines.chat import chat_prompt, chat_prompts, find_template, render_chat
from tests.support.tiny import CHAT_TEMPLATE, write_tiny_llama
from tpforge.errors import InputRefused

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": 'Say "<é>" & go.'}]
# What templates in the wild use: whitespace control, tojson, loop controls, special tokens, dates.
TRICKY = (
    "{{ bos_token }}\n"
    "{%- for message in messages %}\n"
    "    {%- if message.role == 'tool' %}{% continue %}{% endif %}\n"
    "    {{- '<' ~ message['role'] ~ '>' ~ message.content | trim ~ eos_token }}\n"
    "{%- endfor %}\n"
    "{% if tools %}{{ tools | tojson }}{% endif %}\n"
    "{{ {'a': messages[1].content} | tojson }}\n"
    "{% if add_generation_prompt %}<assistant>{% endif %}\n"
)


def write_template(folder: Path, template: object, *, file: bool) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "unk_token": None}
    if file:
        (folder / "chat_template.jinja").write_text(str(template))
    else:
        config["chat_template"] = template  # type: ignore[assignment]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


GENERATION = (
    "{% for message in messages %}{{ message.role }}:{% generation %}{{ message.content }}{% endgeneration %}"
    "{{ eos_token }}{% endfor %}"
)


@pytest.mark.parametrize(
    "template", [CHAT_TEMPLATE, TRICKY, GENERATION], ids=["tiny", "tricky", "generation"]
)
def test_the_prompt_equals_that_of_the_tokenizer(tmp_path: Path, template: str) -> None:
    """The judge is transformers' tokenizer, which finds template and special tokens by itself."""
    folder = write_tiny_llama(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(template)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    expected = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    assert render_chat(folder, MESSAGES) == expected


def test_special_tokens_of_an_older_tokenizer_are_found(tmp_path: Path) -> None:
    folder = write_template(tmp_path / "t", "{{ bos_token }}|{{ pad_token }}", file=True)
    tokens = {"bos_token": "<old>", "pad_token": {"content": "<pad>"}}
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    assert chat_prompt(folder, "hi") == "<s>|<pad>"


@pytest.mark.parametrize("template", ["{{ 1 // 0 }}", "{{ 'a' + 1 }}", "{{ x[7].y }}", "{% if %}"])
def test_a_template_that_fails_is_no_bug_of_ours(tmp_path: Path, template: str) -> None:
    with pytest.raises(InputRefused, match="the chat template refuses the message"):
        chat_prompt(write_template(tmp_path / "t", template, file=True), "hi")


def test_the_template_is_found_in_its_file_in_the_config_and_by_name(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    for name, template, file in (("a", "yes", True), ("b", "yes", False), ("c", named, False)):
        assert chat_prompt(write_template(tmp_path / name, template, file=file), "hi") == "yes"


def test_the_template_of_a_processor_is_found_after_the_tokenizers(tmp_path: Path) -> None:
    folder = write_template(tmp_path / "t", None, file=False)
    (folder / "chat_template.json").write_text('{"chat_template": "of the processor"}')
    assert chat_prompt(folder, "hi") == "of the processor"
    assert chat_prompt(write_template(folder, "own", file=False), "hi") == "own"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", False),
        ("yes", True),
        ([{"name": "default", "template": "yes"}, {"name": "rag", "template": "no"}], True),
        ([{"name": "rag", "template": "no"}], False),
        ([{"name": ["rag"], "template": "no"}, "default"], False),
        ({"default": "no"}, False),
    ],
    ids=str,
)
def test_inspect_says_a_template_is_there_just_where_a_chat_finds_one(
    tmp_path: Path, template: object, expected: bool
) -> None:
    model = write_tiny_llama(tmp_path / "m")
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    assert find_tokenizer(model).has_chat_template is expected
    assert (find_template(model) is not None) is expected


def test_a_template_that_is_no_text_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_template(tmp_path / "t", "yes", file=True)
    (folder / "chat_template.jinja").write_bytes(b"{{ 'a' }}\xff")
    with pytest.raises(InputRefused, match=r"chat_template\.jinja: is not UTF-8: .* at byte 9"):
        chat_prompt(folder, "hi")


def test_the_tokenizer_of_a_checkpoint_gives_its_roles(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path / "m")
    assert chat_prompt(model, "hi", system="Be brief.") == (
        "<|start|>system\nBe brief.<|end|>\n<|start|>user\nhi<|end|>\n<|start|>assistant\n"
    )


def test_several_messages_are_rendered_apart_by_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_tiny_llama(tmp_path / "m")
    messages = ["hi", 'what is\n"this"?', "é \u2028 \U0001f600", ""]
    alone = [chat_prompt(model, message) for message in messages]
    fork, forked = os.fork, []
    monkeypatch.setattr(os, "fork", lambda: forked.append(fork()) or forked[-1])
    assert chat_prompts(model, messages) == alone
    assert len(set(alone)) == len(messages)
    assert len(forked) == 1


def test_a_tokenizer_without_a_template_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="has no chat template; give the prompt itself, without --chat"):
        chat_prompt(write_template(tmp_path / "t", None, file=False), "hi")


def test_a_template_that_refuses_the_message_is_quoted(tmp_path: Path) -> None:
    folder = write_template(tmp_path / "t", "{{ raise_exception('roles must alternate') }}", file=True)
    with pytest.raises(InputRefused, match="the chat template refuses the message: roles must alternate"):
        chat_prompt(folder, "hi")


def test_a_template_cannot_reach_python(tmp_path: Path) -> None:
    for attack in (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append({}) }}",
        "{{ raise_exception.__globals__.sys }}",
    ):
        folder = write_template(tmp_path / str(abs(hash(attack))), attack, file=True)
        with pytest.raises(InputRefused, match="refuses the message"):
            chat_prompt(folder, "hi")


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
            "{% endfor %}{% endfor %}{% endfor %}",
            "processor seconds",
        ),
        ("{{ 'x' * 10000000000 }}", "processor seconds or 512 MiB"),
        ("{{ 'x' * 5000000 }}", "gave 5000000 characters, expected at most 4194304"),
        ("{% for a in range(99999) %}{{ 'x' * 100000 }}{% endfor %}", "processor seconds or 512 MiB"),
        ("{{ 9 ** (9 ** 9) }}", "processor seconds"),
        ("{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}", "recursion depth"),
        ("{" * 1_000_001, "1000001 characters, expected at most 1000000"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[99].content }}", "has no"),
        ("{{ raise_exception('no') }}", "refuses the message: no"),
        ("{% if %}", "refuses the message"),
        ("{{ messages.append(1) }}", "refuses the message"),
        ("{{ ().__class__.__bases__[0].__subclasses__() }}", "refuses the message"),
    ],
)
def test_a_template_that_does_not_end_or_fails_is_refused(tmp_path: Path, template: str, words: str) -> None:
    folder = write_template(tmp_path / "tokenizer", template, file=True)
    with pytest.raises(InputRefused, match=words):
        render_chat(folder, MESSAGES)
