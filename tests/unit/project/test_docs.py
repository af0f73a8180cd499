"""The documentation is what the code says: generated pages are current, and links lead somewhere."""

import json
import re
import shlex
from pathlib import Path

import pytest
from click import Context, Group

from scripts.dev.generate_docs import pages
from scripts.main import cli
from tests.support.records import manifest_of
from tpforge.recipe import Recipe
from tpforge.repository_options import option_defaults
from triton_repo.deploy.targets import TARGETS

ROOT = Path(__file__).parents[3]
MARKDOWN = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DEPLOYING = [ROOT / "docs" / "deploy.md", *sorted((ROOT / "docs" / "deploy").glob("*.md"))]


def test_every_generated_page_is_current() -> None:
    old = [
        name for name, text in pages().items() if (ROOT / "docs" / name).read_text(encoding="utf-8") != text
    ]
    assert old == [], "out of date in docs/; run: make docs"


def test_the_schema_of_the_engine_names_every_key_of_a_manifest() -> None:
    schema = json.loads((ROOT / "docs" / "engine.schema.json").read_text(encoding="utf-8"))
    assert set(schema["properties"]) == set(json.loads(manifest_of().model_dump_json()))


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [target for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text) if "://" not in target]
    named = re.findall(r"`((?:tpforge|builders|engines|triton_repo|scripts|tests|docs)/[\w./*-]+)`", text)
    missing = [target for target in targets if not (page.parent / target).exists()]
    missing += [name for name in named if not list(ROOT.glob(name.rstrip("/")))]
    assert missing == []


def test_every_page_is_reached_from_the_readme() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#:]+\.md)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        waiting += [(page.parent / link).resolve() for link in links]
    assert [page.relative_to(ROOT).as_posix() for page in MARKDOWN if page not in reached] == []


def test_links_to_a_heading_find_it() -> None:
    """By the anchors that hosts make of headings: lower case, hyphens for blanks, other signs left out."""
    missing = []
    for page in MARKDOWN:
        for link, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            target = page.parent / link if link else page
            headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), flags=re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
            if anchor not in anchors:
                missing.append(f"{page.name}: {link}#{anchor}")
    assert missing == []


def test_the_modules_of_the_architecture_page_are_those_of_the_repository() -> None:
    """Every package of the tree is on the page, so that a new one cannot be forgotten."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    packages = {
        path.parent.relative_to(ROOT).as_posix()
        for top in ("tpforge", "builders", "engines", "triton_repo", "scripts")
        for path in (ROOT / top).rglob("__init__.py")
    }
    assert [package for package in sorted(packages) if f"| `{package}/` |" not in text] == []


def test_the_recipe_page_has_every_key_of_a_recipe_and_no_other() -> None:
    text = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    tables: dict[str, set[str]] = {"": set()}
    table = ""
    for first in re.findall(r"^\| ([^|]+) \|", text.split("## Keys")[1], flags=re.MULTILINE):
        if heading := re.fullmatch(r"\*\*`\[(\w+)\]`\*\*", first.strip()):
            table = heading[1]
            tables[table] = set()
        else:
            tables[table] |= set(re.findall(r"`(\w+)`", first))
    nested = ("limits", "tensorrt", "pytorch", "repository", "serve", "smoke")
    expected = {name: set(getattr(Recipe(model="m"), name).model_dump()) for name in nested}
    expected["repository"] = set(option_defaults())
    assert tables == {"": set(Recipe.model_fields) - set(nested), **expected}


@pytest.mark.parametrize("name", [*TARGETS, "this-machine"])
def test_every_target_has_a_page_from_an_engine_to_an_answer(name: str) -> None:
    text = (ROOT / "docs" / "deploy" / f"{name}.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE)[:2] == [
        "What it needs",
        "From an engine to an answer",
    ]
    assert {"## The files", "## Look, upgrade, remove", "## What goes wrong", "## What was run"} <= set(
        text.splitlines()
    )
    assert "tpforge generate " in text and (
        "Not run" in text or "was run" in text.split("## What was run")[1]
    )
    assert f"(deploy/{name}.md)" in (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", DEPLOYING, ids=lambda page: page.name)
def test_the_commands_of_the_deployment_pages_have_the_options_that_they_name(page: Path) -> None:
    blocks = re.findall(r"^```\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    commands = [shlex.split(line, comments=True) for line in lines if line.startswith("tpforge ")]
    assert commands
    for words in commands:
        command = cli.get_command(Context(cli), words[1])
        if isinstance(command, Group):
            command = command.get_command(Context(command), words[2])
        assert command is not None, words
        known = {name for parameter in command.params for name in parameter.opts}
        named = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert named <= known, words


def test_what_contributing_shows_as_added_stands_in_the_files() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    shown: dict[str, list[str]] = {}
    name = ""
    for line in "\n".join(re.findall(r"```diff\n(.*?)```", text, re.DOTALL)).splitlines():
        if line.startswith("+++ "):
            name = line[4:]
        elif line != "+":
            shown.setdefault(name, []).append(line[1:])

    held = {name: (ROOT / name).read_text(encoding="utf-8").splitlines() for name in shown}
    missing = [f"{name}: {line}" for name, lines in shown.items() for line in lines if line not in held[name]]
    assert len(shown) > 10 and missing == []
