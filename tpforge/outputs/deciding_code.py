"""Finds the code that decides an output: a module of ours, all that it imports, and the tables beside them.

It reads source files and imports none of them; `provenance` says what the answer is for.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tpforge._origin import PARTS

PACKAGES = ("tpforge", "builders", "engines", "triton_repo", "scripts")
"""Ours: what other packages compute is no part of what an output is made of."""
HOME = Path(__file__).resolve().parents[2]
"""The folder that tpforge lies in, and the others too but where a wheel carries them."""


_RUNNING = HOME


def code_key(*modules: str, home: Path | None = None) -> str:
    """SHA-256 over the files that decide what the functions of these modules make.

    Without `home` it is the code that runs, which a process asks once: it goes on with what it has loaded.

    Raises:
        ModuleNotFoundError: there is no such module of ours.
    """
    if home is None and HOME == _RUNNING:
        return _running_key(modules)
    return _key(modules, home or HOME)


@cache
def _running_key(modules: tuple[str, ...]) -> str:
    return _key(modules, _RUNNING)


def _key(modules: tuple[str, ...], home: Path) -> str:
    digest = hashlib.sha256()
    places = {_place(path, home): path for path in deciding_files(*modules, home=home)}
    for place, path in sorted(places.items()):
        digest.update(f"{place} {_read(path).sha256}\n".encode())
    return digest.hexdigest()


def deciding_files(*modules: str, home: Path | None = None) -> tuple[Path, ...]:
    """The files that decide what the functions of these modules make; `home` holds our packages.

    They are the modules, every module of ours that these import, inside functions too, and so on; and the
    files that are no modules (tables, templates) of each package that one of them lies in. A package that is
    imported as an object, as it is where its folder is copied, counts whole.

    Raises:
        ModuleNotFoundError: there is no such module of ours.
    """
    find = _finder(home or HOME)
    found: dict[str, Path] = {}
    waiting = list(modules)
    while waiting:
        for module in _with_packages(waiting.pop()):
            if module in found:
                continue
            path = find(module)
            if path is None:
                raise ModuleNotFoundError(f"{module}: no such module under {home or HOME}")
            found[module] = path
            waiting += _imported(module, path, find)
    packages = {path.parent for path in found.values() if path.name == "__init__.py"}
    return tuple(sorted({*found.values(), *(file for package in packages for file in _tables(package))}))


@dataclass(frozen=True)
class _Named:
    """A name that a module imports; relative ones keep their dots. `is_object`: it is what is imported."""

    name: str
    is_object: bool


@dataclass(frozen=True)
class _File:
    sha256: str
    names: frozenset[_Named]


def _read(path: Path) -> _File:
    status = path.stat()
    return _read_as_of(path, status.st_mtime_ns, status.st_size)


@cache
def _read_as_of(path: Path, mtime_ns: int, size: int) -> _File:
    """Within a process a file is read once as long as it stays as it is."""
    data = path.read_bytes()
    names = frozenset(_names(ast.parse(data))) if path.suffix == ".py" else frozenset()
    return _File(hashlib.sha256(data).hexdigest(), names)


def _names(tree: ast.AST) -> Iterator[_Named]:
    """What a module imports, except for its type checker alone.

    A string may name a module too, which is then run by that name or as that file. A module with a
    `__getattr__` of its own loads its names when they are asked for: what its type checker sees is then them.
    """
    for node in ast.walk(tree) if _is_lazy(tree) else _executed(tree):
        if isinstance(node, ast.Import):
            yield from (_Named(alias.name, True) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            joint = "." if node.module else ""
            yield _Named(base, False)
            yield from (_Named(f"{base}{joint}{alias.name}", True) for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            package, _, rest = node.value.partition(".")
            if package in PACKAGES and rest:
                yield _Named(node.value, False)
            elif rest == "py" and package.isidentifier():
                yield _Named(f".{package}", False)


def _is_lazy(tree: ast.AST) -> bool:
    """Whether a module has a `__getattr__`, under an `if` too; that of a class is another thing."""
    return any(
        (isinstance(node, ast.FunctionDef) and node.name == "__getattr__")
        or (isinstance(node, ast.If) and _is_lazy(node))
        for node in ast.iter_child_nodes(tree)
    )


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)


def _imported(module: str, path: Path, find: Callable[[str], Path | None]) -> Iterator[str]:
    """The modules of ours that a module imports."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for named in _read(path).names:
        name = _absolute(named.name, package)
        if name.partition(".")[0] not in PACKAGES:
            continue
        file = find(name)
        if file is None:
            continue
        yield name
        if named.is_object and file.name == "__init__.py":
            yield from _all_modules(name, file.parent)


def _absolute(name: str, package: str) -> str:
    """A name as it is written in a module of `package`, from our packages on."""
    bare = name.lstrip(".")
    num_dots = len(name) - len(bare)
    if num_dots == 0:
        return name
    parents = package.split(".")
    return ".".join([*parents[: len(parents) - num_dots + 1], *([bare] if bare else [])])


def _with_packages(module: str) -> list[str]:
    """A module after the packages that it lies in, whose own code runs before it."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _carried(home: Path) -> Path:
    """Where a wheel that is installed in `home` carries the packages other than tpforge."""
    return home / "tpforge" / PARTS.name


def _place(path: Path, home: Path) -> str:
    """The path of a file in a checkout, also when a wheel has it elsewhere: the same code, the same key."""
    carried = _carried(home)
    return path.relative_to(carried if path.is_relative_to(carried) else home).as_posix()


def _finder(home: Path) -> Callable[[str], Path | None]:
    """Finds the file of a module by its name, each once."""
    carried = _carried(home)
    parts = carried if carried.is_dir() else home

    @cache
    def find(module: str) -> Path | None:
        package = module.partition(".")[0]
        path = f"{home if package == 'tpforge' else parts}/{module.replace('.', '/')}"
        files = (Path(f"{path}/__init__.py"), Path(f"{path}.py"))
        return next((file for file in files if file.is_file()), None)

    return find


def _all_modules(package: str, folder: Path) -> Iterator[str]:
    for path in folder.iterdir():
        if path.suffix == ".py" and path.stem != "__init__":
            yield f"{package}.{path.stem}"
        elif (path / "__init__.py").is_file():
            yield f"{package}.{path.name}"
            yield from _all_modules(f"{package}.{path.name}", path)


def _tables(package: Path) -> Iterator[Path]:
    """The files of a package's folder that are no modules of it or of its subpackages."""
    for path in package.iterdir():
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            yield path
        elif _is_plain(path):
            yield from (
                file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts
            )


def _is_plain(path: Path) -> bool:
    """Whether a folder within a package is neither a package nor what Python or a wheel put there."""
    is_ours = path.name not in ("__pycache__", PARTS.name)
    return is_ours and path.is_dir() and not (path / "__init__.py").is_file()
