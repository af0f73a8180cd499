"""docs/runtimes.md and docs/serving.md explain every line of the golden files, and every parameter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from triton_repo.render.parameters import parameter_tables

ROOT = Path(__file__).parents[3]
PAGE = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("runtimes.md", "serving.md"))
GOLDEN = sorted((ROOT / "tests" / "golden" / "runtimes").glob("*.txt"))


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_every_option_of_a_golden_file_is_on_the_page(path: Path) -> None:
    options = set(re.findall(r"(?<!\S)(--[a-z][\w-]+)", path.read_text()))
    assert len(options) > 8
    assert sorted(option for option in options if option not in PAGE) == []


@pytest.mark.parametrize(
    "path", [path for path in GOLDEN if "pytorch" in path.name], ids=lambda path: path.name
)
def test_every_key_of_a_yaml_file_is_on_the_page(path: Path) -> None:
    section = path.read_text().partition("1/model.yaml ===\n")[2].partition("=== serve")[0]
    keys = re.findall(r"^ *(\w+):", section, flags=re.MULTILINE)
    assert len(keys) > 9
    assert [key for key in keys if f"`{key}" not in PAGE] == []


def lines_of(path: Path, title: str) -> list[str]:
    """The lines of one part of a golden file."""
    return path.read_text().partition(f"=== {title} ===\n")[2].partition("\n=== ")[0].splitlines()


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_what_is_printed_before_the_command_is_on_the_page(path: Path) -> None:
    printed = lines_of(path, "build") + lines_of(path, "serve")
    labels = {match[1] for line in printed if (match := re.match(r"([a-z][a-z ]*?) {2,}\S", line))}
    assert {"engine folder", "release", "container", "repository"} <= labels
    known = set(re.findall(r"--(\w+)", PAGE)) | {"argument"}
    explained = {name for row in re.findall(r"^\| (`.+?) \|", PAGE, re.MULTILINE) for name in row.split("`")}
    assert sorted(labels - known - explained) == []


@pytest.mark.parametrize("path", [path for path in GOLDEN if "tensorrt" in path.name], ids=lambda p: p.name)
def test_every_line_of_the_script_is_on_the_page(path: Path) -> None:
    printed = lines_of(path, "build")
    script = printed[printed.index("build.sh:") + 1 :]
    own = [line for line in script if not line.startswith(("#", "  --", "trtllm-build"))]
    assert own == ["set -eu", 'cd "$(dirname "$0")"']
    assert [line for line in own if f"`{line}`" not in PAGE] == []


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_every_value_of_the_servers_command_that_is_fixed_is_on_the_page(path: Path) -> None:
    words = " ".join(lines_of(path, "serve")).replace("\\", " ").split()
    fixed = {
        words[place + 1] for place, word in enumerate(words) if word in ("--env", "--ulimit", "--shm-size")
    }
    fixed |= {word for word in words if re.fullmatch(r"--[a-z-]+=[a-z_]+(=[a-z]+)?", word)}
    fixed |= {word for word in ("mpirun", "-n", "trtllm-llmapi-launch") if word in words}
    assert {"memlock=-1", "HF_HUB_OFFLINE=1", "--metrics-config=histogram_latencies=true"} <= fixed
    assert sorted(word for word in fixed if word not in PAGE) == []


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_every_key_of_a_config_pbtxt_is_on_the_page(path: Path) -> None:
    text = "\n".join(lines_of(path, "tensorrt_llm/config.pbtxt, the end"))
    keys = set(re.findall(r'key: "(\w+)"', text)) | set(re.findall(r"^(\w+) [\[{]", text, re.MULTILINE))
    assert "instance_group" in keys
    assert sorted(key for key in keys - {"parameters"} if f"`{key}`" not in PAGE) == []


def test_every_parameter_has_a_row_with_its_meaning() -> None:
    missing = [
        f"{table.model} {one.name}"
        for table in parameter_tables().values()
        for one in table.parameters
        if f"| {table.model} | `{one.name}` |" not in PAGE or one.meaning not in PAGE
    ]
    assert missing == []


def test_four_models_and_two_runtimes_have_a_golden_file() -> None:
    assert len(GOLDEN) == 8
