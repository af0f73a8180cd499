"""Says what an installed TensorRT-LLM is and takes, as one line of JSON; runs inside it, alone.

It imports nothing of ours, so that any Python runs it (``python -c``); `tpforge.trtllm.learned` keeps what it
finds. It prefers what can be read without importing TensorRT-LLM, whose import needs the libraries of a GPU.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import importlib.metadata
import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

MARK = "tpforge-probe: "
PACKAGE = "tensorrt_llm"
_PACKAGES = ("torch", "transformers", "tensorrt", "nvidia-modelopt", "triton", "flashinfer-python")
_SCHEMA = "schemas/trtllm-serve-config.schema.json"


def probe() -> dict[str, Any]:
    """Everything that can be found; what cannot is a line of `problems`."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return {"problems": [f"{PACKAGE}: not installed in {sys.executable}"]}
    root = Path(next(iter(spec.submodule_search_locations)))
    problems: list[str] = []
    schema, how = _schema(root, problems)
    return {
        "version": _version(root),
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "packages": {name: found for name in _PACKAGES if (found := _package(name))} | _cuda(),
        "schema": schema,
        "schema_from": how,
        "build_options": _build_options(root, problems),
        "serve_options": _serve_options(root, problems),
        "architectures": _architectures(root),
        "problems": problems,
    }


def _version(root: Path) -> str | None:
    """The version in the package's own version.py, or of its metadata."""
    found = _assigned(root / "version.py", "__version__")
    return found or _package(PACKAGE) or _package(PACKAGE.replace("_", "-"))


def _package(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cuda() -> dict[str, str]:
    """The CUDA that torch was built with, without importing torch."""
    spec = importlib.util.find_spec("torch")
    places = (spec.submodule_search_locations or []) if spec else []
    found = next((_assigned(Path(place) / "version.py", "cuda") for place in places), None)
    return {"cuda": found} if found else {}


def _assigned(path: Path, name: str) -> str | None:
    """The text that a module assigns to a name of its own, read and not run."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return None
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        is_it = any(isinstance(one, ast.Name) and one.id == name for one in targets)
        if is_it and isinstance(value, ast.Constant) and isinstance(value.value, str):
            return value.value
    return None


def _schema(root: Path, problems: list[str]) -> tuple[Any, str | None]:
    """The JSON schema of the LLM API's arguments: the file that ships, else pydantic's own."""
    path = root / _SCHEMA
    if path.is_file():
        try:
            return json.loads(path.read_text(encoding="utf-8")), _SCHEMA
        except ValueError as error:
            problems.append(f"{_SCHEMA}: cannot be read: {error}")
    try:
        with _quiet():
            module = importlib.import_module(f"{PACKAGE}.llmapi.llm_args")
            return module.TorchLlmArgs.model_json_schema(), "TorchLlmArgs.model_json_schema()"
    except BaseException as error:  # whatever an import of a large package raises, SystemExit too
        problems.append(f"{PACKAGE}.llmapi.llm_args: {_said(error)}")
        return None, None


def _build_options(root: Path, problems: list[str]) -> list[dict[str, Any]] | None:
    """The options of trtllm-build, from its own parser; None where the release has none."""
    if not (root / "commands" / "build.py").is_file():
        return None
    parsers: list[argparse.ArgumentParser] = []

    class Seen(Exception):
        pass

    def seen(parser: argparse.ArgumentParser, *_args: Any, **_kwargs: Any) -> Any:
        parsers.append(parser)
        raise Seen

    try:
        with _quiet(), contextlib.ExitStack() as stack:
            module = importlib.import_module(f"{PACKAGE}.commands.build")
            for name in ("parse_args", "parse_known_args"):
                stack.enter_context(mock.patch.object(argparse.ArgumentParser, name, seen))
            with contextlib.suppress(Seen):
                module.parse_arguments()
    except BaseException as error:
        problems.append(f"{PACKAGE}.commands.build: {_said(error)}")
        return None
    if not parsers:
        problems.append(f"{PACKAGE}.commands.build: parse_arguments() made no parser")
        return None
    return [_action(action) for action in parsers[0]._actions if action.dest != "help"]


def _action(action: argparse.Action) -> dict[str, Any]:
    kind = getattr(action.type, "__name__", "str")
    return {
        "name": action.dest,
        "flags": list(action.option_strings),
        "type": "flag" if action.nargs == 0 else "list" if action.nargs in ("+", "*") else kind,
        "choices": [str(one) for one in action.choices] if action.choices else [],
        "default": _plain(action.default),
    }


def _serve_options(root: Path, problems: list[str]) -> dict[str, list[dict[str, Any]]] | None:
    """The options of trtllm-serve by its commands, from click; None where the release has none."""
    if not (root / "commands" / "serve.py").is_file():
        return None
    try:
        with _quiet():
            main = importlib.import_module(f"{PACKAGE}.commands.serve").main
        return {name: [_param(one) for one in command.params] for name, command in main.commands.items()}
    except BaseException as error:
        problems.append(f"{PACKAGE}.commands.serve: {_said(error)}")
        return None


def _param(param: Any) -> dict[str, Any]:
    return {
        "name": param.name,
        "flags": [*param.opts, *param.secondary_opts],
        "type": getattr(param.type, "name", "text"),
        "choices": [str(getattr(one, "value", one)) for one in getattr(param.type, "choices", ())],
        "default": _plain(param.default),
    }


def _architectures(root: Path) -> list[str]:
    """The names that model files register by a decorator, read and not run."""
    found = set()
    for path in sorted((root / "_torch").rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        if "register_auto_model(" not in text:
            continue
        with contextlib.suppress(SyntaxError):
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "register_auto_model":
                    found |= {
                        one.value
                        for one in node.args
                        if isinstance(one, ast.Constant) and isinstance(one.value, str)
                    }
    return sorted(found)


def _plain(value: Any) -> Any:
    """A default as JSON can hold it; None for what it cannot."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return None
    return value


def _said(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[-1] if text else ''}".removesuffix(": ")


@contextlib.contextmanager
def _quiet() -> Any:
    """Nothing of what an import prints goes to our standard output."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


if __name__ == "__main__":
    print(MARK + json.dumps(probe(), sort_keys=True), flush=True)
