"""Tables of people and strangers, TOML and YAML, that a parser would choke on: refused, by every command."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import yaml

from scripts.main import main
from tpforge.errors import InputRefused, UsageError
from tpforge.sweep import read_sweep
from tpforge.toml_text import MAX_KEY_PARTS, parse_toml
from tpforge.yaml_text import parse_table

LONG_KEY = ".".join(["a"] * 50_000)
TOML = {
    "a number of 5000 digits": "a = " + "1" * 5000,
    "a key of 50,000 parts": f"{LONG_KEY} = 1",
    "a table of 50,000 parts": f"[{LONG_KEY}]",
    "a key of quoted parts": ".".join(['"a b"'] * 50_000) + " = 1",
    "a key with blanks": " . ".join(["'a'"] * 50_000) + " = 1",
    "a key within a value": f"a = {{ {LONG_KEY} = 1 }}",
    "lists in lists": "a = " + "[" * 200_000,
    "tables in tables": "a = " + "{ b = " * 100_000,
    "a text of 2 MB": "a = '" + "x" * (2 << 20) + "'",
    "a date that is none": "a = 2001-99-99",
    "a time that is none": "a = 25:61:61",
}
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n"
    for old, new in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
YAML = {
    "aliases of aliases": BOMB,
    "a list that holds itself": "a: &a [*a]",
    "a table that holds itself": "&a {b: *a}",
    "a number of 5000 digits": "a: " + "1" * 5000,
    "a date that is none": "a: 9999-99-99",
    "lists in lists": "[" * 200_000,
    "an object of Python": "!!python/object/apply:os.system ['touch pwned']",
}


@pytest.mark.parametrize("case", TOML)
@pytest.mark.parametrize(
    "words",
    [["up"], ["gpus", "--gpu-file"], ["bench", "localhost:1", "--sweep"], ["inspect", ".", "--describe"]],
    ids=lambda words: words[0],
)
def test_a_toml_file_that_a_parser_chokes_on_is_refused(
    words: list[str],
    case: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given.toml").write_text(TOML[case], encoding="utf-8")
    assert main([*words, "given.toml"]) in (2, 4)
    said = capsys.readouterr()
    assert said.out == "" and len(said.err) < 5000


def test_keys_and_texts_that_people_write_are_read() -> None:
    written = "\n".join(
        [
            f"{'.'.join(['a'] * MAX_KEY_PARTS)} = 1",
            'text = "one. two. three... ' + "a.b" * 20 + '"',
            "numbers = [1.5, 2.5e3, 0xff]",
            "when = 2026-01-01T00:00:00Z",
            'dots = "' + "." * 500 + '"',
        ]
    )
    assert parse_toml(written) == tomllib.loads(written)


@pytest.mark.parametrize("case", YAML)
def test_a_yaml_file_that_a_parser_chokes_on_is_refused(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "llm.yaml").write_text(YAML[case], encoding="utf-8")
    assert main(["migrate", "llm.yaml", "--from", "1.2.1"]) == 4
    assert len(capsys.readouterr().err) < 5000
    assert not (tmp_path / "pwned").exists()


def test_aliases_of_people_are_read() -> None:
    written = "base: &base {a: 1, b: [1, 2]}\none: {<<: *base, a: 2}\ntwo: *base\n"
    assert parse_table(written, where=Path("x")) == yaml.safe_load(written)
    with pytest.raises(InputRefused, match="found NoneType"):
        parse_table("", where=Path("x"))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[sweep]\n" + "\n".join(f"k{n} = {list(range(10))}" for n in range(12)), "has 1000000000000 points"),
        ('model = "m"\nlimits = 3\n[sweep]\n"limits.max_input_len" = [1]', "limits is 3 in the recipe"),
    ],
    ids=["more points than anyone can measure", "a table that is a number"],
)
def test_a_sweep_that_cannot_be_is_refused(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.toml").write_text(content)
    with pytest.raises(UsageError, match=told):
        read_sweep(tmp_path / "sweep.toml")
