"""Copies or makes the tokenizer files that go into an engine, without running anything of the checkpoint.

It does not tokenize.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from builders.sources.json_files import read_json_object
from builders.sources.tokenizer_loading import is_of_a_library, loading_problem
from tpforge.errors import InputRefused

TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
_UNREAD = {
    "tekken.json": "Mistral's own tokenizer",
    "qwen.tiktoken": "a tiktoken file that the checkpoint's own code reads",
    "tokenizer.tiktoken": "a tiktoken file that the checkpoint's own code reads",
}
"""Tokenizers that are named when there is no other."""
# These say where the tokenizer was loaded from, or name code of the checkpoint, which is never run.
_VOLATILE_KEYS = ("auto_map", "backend", "is_local", "local_files_only", "name_or_path")


def find_tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """The tokenizer files that `folder` holds."""
    return tuple(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())


def tokenizer_missing(folder: Path) -> str | None:
    """Why no tokenizer can be made of the folder's files; None when one can."""
    names = {path.name for path in find_tokenizer_files(folder)}
    if names & {"tokenizer.json", "tokenizer.model"} or names >= {"vocab.json", "merges.txt"}:
        return None
    unread = next((name for name in _UNREAD if (folder / name).is_file()), None)
    if unread is not None:
        return (
            f"found {unread} ({_UNREAD[unread]}) and no tokenizer.json, which the runtimes need; add the "
            "tokenizer.json of the same model in Hugging Face's layout"
        )
    return "found no tokenizer; expected tokenizer.json and tokenizer_config.json"


def require_tokenizer(path: Path) -> None:
    """Raise InputRefused when a tokenizer is needed and the directory has none that can be loaded."""
    if not path.is_dir():
        return
    if (missing := tokenizer_missing(path)) is not None:
        raise InputRefused(f"{path}: {missing}")
    if (problem := loading_problem(path)) is not None:
        raise InputRefused(problem)


def copy_tokenizer(folder: Path, out: Path) -> None:
    """Copy a Hugging Face directory's tokenizer; one without tokenizer.json is converted by transformers.

    Raises:
        InputRefused: there is no tokenizer, or transformers cannot convert it.
    """
    files = find_tokenizer_files(folder)
    names = {path.name for path in files}
    if (missing := tokenizer_missing(folder)) is not None:
        raise InputRefused(f"{folder}: {missing}")
    for path in files:
        if path.suffix == ".json":
            read_json_object(path)
        shutil.copyfile(path, out / path.name)
    if "tokenizer.json" not in names:
        convert_tokenizer(folder, out)
    remove_volatile_keys(out / "tokenizer_config.json")


def convert_tokenizer(folder: Path, out: Path, *, gguf_file: str | None = None) -> None:
    """Write a tokenizer that only transformers can read as tokenizer.json.

    Raises:
        InputRefused: transformers cannot; its own words are in the message.
    """
    from transformers import AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    arguments: dict[str, Any] = {"gguf_file": gguf_file} if gguf_file else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False, **arguments
        )
        tokenizer.save_pretrained(str(out))
    except BaseException as error:
        # Neither library has exceptions of its own; tokenizers' panics are no Exception even.
        if not is_of_a_library(error):
            raise
        where = folder / gguf_file if gguf_file else folder
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise InputRefused(
            f"{where}: transformers cannot read its tokenizer ({type(error).__name__}: {reason}); "
            "add a tokenizer.json"
        ) from error
    if not (out / "tokenizer.json").is_file():
        raise InputRefused(f"{folder}: its tokenizer has no tokenizer.json form; add a tokenizer.json")
    if (problem := loading_problem(out)) is not None:
        raise InputRefused(f"{folder}: transformers makes no usable tokenizer of it: {problem}")


def as_llama_cpp_spaces(path: Path, *, adds_space: bool) -> None:
    """Rewrite a tokenizer.json of sentencepiece so that a text gets a space before it in any case.

    Transformers' conversion adds none to a text that begins with one; llama.cpp does, and after special
    tokens too. Source: llama.cpp, llama-vocab.cpp (add_space_prefix).
    """
    values = json.loads(path.read_text(encoding="utf-8"))
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prepend = [{"type": "Prepend", "prepend": "\u2581"}] if adds_space else []
    values |= {"normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]}, "pre_tokenizer": None}
    path.write_text(json.dumps(values, ensure_ascii=False, indent=2), encoding="utf-8")


def remove_volatile_keys(path: Path) -> None:
    """Rewrite a tokenizer_config.json without keys that depend on the machine or name code."""
    if not path.is_file():
        return
    content = read_json_object(path)
    kept = {key: value for key, value in content.items() if key not in _VOLATILE_KEYS}
    if kept != content:
        text = json.dumps(kept, indent=2, ensure_ascii=False, sort_keys=True)
        path.write_text(text + "\n", encoding="utf-8")
