"""pyproject.toml declares what the packages import and start: no more, no less.

The judge of which distribution a module belongs to is the installed distributions' own metadata.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = ("tpforge", "builders", "engines", "triton_repo", "scripts")
ELSEWHERE = {
    "triton_python_backend_utils": "Triton gives it to its Python models",
    "pip": "most environments of Python have it; where one has not, uv or that of PATH is taken",
    "modelopt": "calibration makes an environment of its own for it",
    "dynamo": "`tpforge setup openai` makes an environment of its own for it",
    "openai": "it lies in that environment",
}
NOT_INSTALLED = {"lm_eval": "lm-eval", "pynvml": "nvidia-ml-py", "pytriton": "nvidia-pytriton"}
"""The distributions of extras, which may be missing here."""
FOR_OTHERS = {
    "accelerate": "transformers loads quantized checkpoints by it",
    "pandas": "lm-eval: the last version that works with numpy 1",
    "pyarrow": "lm-eval: the last version that works with numpy 1",
    "tensorrt-llm": "Triton's models and this host's trtllm-build are it; we import it nowhere",
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;]", name)[0]).lower()


def modules_used(path: Path) -> Iterator[str]:
    """The top-level modules that a file imports anywhere in it, or looks for by a literal name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("find_spec", "import_module"):
                yield str(node.args[0].value).split(".")[0]


def beside_models() -> set[str]:
    """What a repository's models import from beside them: the templates, and a copy of the runtime."""
    templates = ROOT / "triton_repo/templates"
    return {path.stem for path in templates.rglob("*") if path.suffix == ".py" or path.is_dir()} | {
        "reference"
    }


@cache
def distributions_used() -> dict[str, str]:
    """The distribution of every foreign module, with a file that uses it."""
    ours = set(PACKAGES) | beside_models() | set(ELSEWHERE) | set(sys.stdlib_module_names)
    known = packages_distributions()
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for module in set(modules_used(path)) - ours:
                if module == "google":  # A namespace of many distributions; protobuf is the one used.
                    module = "google.protobuf"
                name = {"google.protobuf": "protobuf"}.get(module) or NOT_INSTALLED.get(module)
                name = name or next(iter(known.get(module, [f"no distribution of module {module}"])))
                found[canonical(name)] = str(path.relative_to(ROOT))
    return found


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    optional = (
        line for extra, lines in project["optional-dependencies"].items() if extra != "dev" for line in lines
    )
    return {canonical(line) for line in (*project["dependencies"], *optional)}


def test_everything_imported_or_started_is_declared() -> None:
    undeclared = {name: file for name, file in distributions_used().items() if name not in declared()}
    assert undeclared == {}


def test_nothing_is_declared_that_is_not_used() -> None:
    assert declared() - set(distributions_used()) == set(FOR_OTHERS)
