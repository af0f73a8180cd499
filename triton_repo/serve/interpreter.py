"""Whether the running Python is one that Triton's Python backend can run models in.

The stub loads the *system's* libpython and our site-packages, so both must be of one Python, and numpy
must be older than 2. It installs nothing.
"""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

from tpforge.errors import EnvironmentUnusable
from tpforge.extras import has_extra, missing_extra

_REMEDY = (
    "`make setup` in a checkout makes an environment that fits; `uv tool install` and `pipx install` take "
    "the system's Python by --python"
)
_ASK_LIBRARY = (
    "import ctypes, sys\n"
    "library = ctypes.CDLL(sys.argv[1])\n"
    "library.Py_GetVersion.restype = ctypes.c_char_p\n"
    "print(library.Py_GetVersion().decode().split()[0])\n"
)


def check_interpreter() -> None:
    """Raise unless models can run in this Python.

    Raises:
        EnvironmentUnusable: all that is wrong: no python3 beside it, libpython of another version, numpy,
            or what the models import.
    """
    name = f"libpython{sys.version_info.major}.{sys.version_info.minor}.so.1.0"
    python3 = Path(sys.executable).parent / "python3"
    problems = [
        problem
        for problem in (
            python3_problem(python3, is_file=python3.is_file()),
            library_problem(name, library_version(name), running=platform.python_version()),
            numpy_problem(numpy_version(python3)),
            None if has_extra("convert") else missing_extra("convert", needed_by="the model on the server"),
        )
        if problem
    ]
    if problems:
        raise EnvironmentUnusable(
            "\n  ".join([f"{sys.executable} cannot run Triton's Python models; {_REMEDY}:", *problems])
        )


def python3_problem(python3: Path, *, is_file: bool) -> str | None:
    """The stub takes the first python3 on PATH, which we make this one."""
    return None if is_file else f"there is no {python3}, by which the server finds its packages"


def library_problem(name: str, found: str | None, *, running: str) -> str | None:
    """What is wrong with a system that has `found` as its libpython; None when nothing is."""
    if found is None:
        return f"{name} is not in the system's library path (Debian: apt-get install {name.split('.so')[0]})"
    if found != running:
        return f"the system's {name} is Python {found}, this is Python {running}; use the system's Python"
    return None


def numpy_problem(found: str | None) -> str | None:
    """What is wrong with this version of numpy; None when nothing is."""
    if found is None:
        return "numpy is not installed"
    if int(found.split(".")[0]) >= 2:
        # With numpy 2 the server says READY and then returns empty tensors, or aborts.
        return f"numpy {found} is installed, and the stub needs numpy < 2"
    return None


def library_version(name: str) -> str | None:
    """The Python version of a shared library, asked in a process of its own; None when it is not found."""
    command = [sys.executable, "-I", "-S", "-c", _ASK_LIBRARY, name]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


def numpy_version(python3: Path) -> str | None:
    """The numpy that the stub will import; None when there is none.

    The stub does not see PYTHONPATH: a numpy that is only there passes every other check, and the one in
    the environment's own site-packages is imported.
    """
    if not python3.is_file():
        return None
    ask = "from importlib.metadata import version; print(version('numpy'))"
    answer = subprocess.run(
        [str(python3), "-E", "-s", "-c", ask], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() if answer.returncode == 0 else None
