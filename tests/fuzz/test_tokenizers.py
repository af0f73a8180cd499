"""Whatever the files of a tokenizer hold, the answer is an error of ours, or its library can use it."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from builders.audit.survey import survey
from builders.sources import locate, open_source
from builders.sources.tokenizer_files import require_tokenizer
from engines.chat import chat_prompt
from tests.fuzz.junk import CHANGES, fuzz, mutated, put
from tests.support.tiny import write_tiny_llama
from tests.unit.builders.sources.test_tokenizers import write_sentencepiece, write_vocabulary
from tpforge.errors import TpforgeError


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("llama"), num_layers=1)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    write_vocabulary(folder)
    return folder


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_llama(tmp_path_factory.mktemp("pieces"), num_layers=1)
    (folder / "tokenizer.json").unlink()
    write_sentencepiece(folder / "only")
    for path in (folder / "only").iterdir():
        shutil.copyfile(path, folder / path.name)
    return folder


def use(folder: Path) -> None:
    """As a build does: what was not refused before the conversion can be used after it."""
    survey(locate(str(folder)))
    with TemporaryDirectory() as made:
        try:
            require_tokenizer(folder)
            with open_source(str(folder)) as source:
                source.write_tokenizer(Path(made))
        except TpforgeError as error:
            assert str(error)
            return
        Tokenizer.from_file(str(Path(made) / "tokenizer.json")).encode("the capital of France")
        with suppress(TpforgeError):
            chat_prompt(Path(made), "hello")


def use_changed(folder: Path, name: str, content: bytes) -> None:
    """With another content of one file."""
    kept = (folder / name).read_bytes()
    put(folder / name, content)
    try:
        use(folder)
    finally:
        put(folder / name, kept)


@fuzz(60)
@given(changes=CHANGES, name=st.sampled_from(["tokenizer.json", "tokenizer_config.json"]))
def test_any_change_of_a_tokenizer_is_refused_or_harmless(
    llama: Path, changes: list[tuple[int, Any]], name: str
) -> None:
    text = json.dumps(mutated(json.loads((llama / name).read_bytes()), changes))
    use_changed(llama, name, text.encode())


@fuzz(20)
@given(changes=CHANGES, name=st.sampled_from(["vocab.json", "tokenizer_config.json"]))
def test_any_change_of_a_vocabulary_is_refused_or_harmless(
    pairs: Path, changes: list[tuple[int, Any]], name: str
) -> None:
    text = json.dumps(mutated(json.loads((pairs / name).read_bytes()), changes))
    use_changed(pairs, name, text.encode())


@fuzz(20)
@given(place=st.integers(0, 500), new=st.binary(max_size=12) | st.text(max_size=8).map(str.encode))
def test_any_bytes_in_merges_are_refused_or_harmless(pairs: Path, place: int, new: bytes) -> None:
    content = (pairs / "merges.txt").read_bytes()
    place %= len(content)
    use_changed(pairs, "merges.txt", content[:place] + new + content[place + len(new) :])


@fuzz(20)
@given(place=st.integers(0, 1 << 20), new=st.binary(max_size=12), cut=st.booleans())
def test_any_bytes_of_a_sentencepiece_model_are_refused_or_harmless(
    pieces: Path, place: int, new: bytes, cut: bool
) -> None:
    content = (pieces / "tokenizer.model").read_bytes()
    place %= len(content)
    use_changed(
        pieces, "tokenizer.model", content[:place] + new + (b"" if cut else content[place + len(new) :])
    )


@fuzz(20)
@given(template=st.text(max_size=30) | st.sampled_from(["{{", "{% for %}", "{{ 1 / 0 }}", "{{ [].x.y }}"]))
def test_any_template_is_refused_or_renders(llama: Path, template: str) -> None:
    with TemporaryDirectory() as folder:
        shutil.copytree(llama, folder, dirs_exist_ok=True)
        (Path(folder) / "chat_template.jinja").write_bytes(template.encode("utf-8", "surrogatepass"))
        use(Path(folder))
