"""Releases of TensorRT-LLM: what each needs, which Triton container holds it, what it can do; from a table.

It does not look at this machine: `engines.host` does.
"""

from __future__ import annotations

import re
import tomllib
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from typing import Literal

from tpforge.errors import UsageError
from tpforge.records import Record

DEFAULT_RELEASE = "1.2.1"
"""The last stable release with trtllm-build; it serves both runtimes."""

_IMAGE = "nvcr.io/nvidia/tritonserver:{tag}-trtllm-python-py3"


class Release(Record):
    """One release; an empty string is a version that upstream's tables do not give.

    `engines` says whether trtllm-build exists; `build_arguments` and `llm_arguments` name the tables of
    arguments that were compared with upstream's code, or are None.
    """

    trtllm: str
    tensorrt: str
    cuda: str
    driver: str
    torch: str
    transformers: str
    modelopt: str
    triton: tuple[str, ...]
    engines: bool
    default_backend: Literal["tensorrt", "pytorch"]
    build_arguments: str | None = None
    llm_arguments: str | None = None
    note: str | None = None
    sources: tuple[str, ...]

    @property
    def image(self) -> str | None:
        """The newest Triton container that holds this release; None when there is none listed."""
        return _IMAGE.format(tag=self.triton[-1]) if self.triton else None

    @property
    def runtimes(self) -> tuple[Literal["tensorrt", "pytorch"], ...]:
        """The runtimes that tpforge can prepare for it: those whose arguments are known."""
        tensorrt: tuple[Literal["tensorrt"], ...] = ("tensorrt",) if self.build_arguments else ()
        pytorch: tuple[Literal["pytorch"], ...] = ("pytorch",) if self.llm_arguments else ()
        return (*tensorrt, *pytorch)


@cache
def releases() -> tuple[Release, ...]:
    """All releases of the table, oldest first."""
    text = files("tpforge.trtllm").joinpath("versions.toml").read_text(encoding="utf-8")
    table = tuple(Release.model_validate(row) for row in tomllib.loads(text)["release"])
    names = [release.trtllm for release in table]
    assert len(set(names)) == len(names), "a release is given twice"
    assert list(names) == sorted(names, key=version_key), "the releases are not in order"
    return table


def find_release(version: str) -> Release:
    """The release of that version, spelled with or without ``v``.

    Raises:
        UsageError: the table does not have it; names the nearest.
    """
    wanted = version.removeprefix("v")
    for release in releases():
        if release.trtllm == wanted:
            return release
    names = [release.trtllm for release in releases()]
    nearest = get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = f"; did you mean {nearest[0]}?" if nearest else ""
    raise UsageError(f"TensorRT-LLM {version}: not in the table{hint} `tpforge versions` lists {len(names)}")


def release_for(version: str, *, runtime: Literal["tensorrt", "pytorch"]) -> Release:
    """The release, which must be one that tpforge can prepare `runtime` for.

    Raises:
        UsageError: there is no such release, it has no such runtime, or its arguments are not known.
    """
    release = find_release(version)
    if runtime in release.runtimes:
        return release
    known = ", ".join(one.trtllm for one in releases() if runtime in one.runtimes)
    if runtime == "tensorrt" and not release.engines:
        raise UsageError(
            f"TensorRT-LLM {release.trtllm} has no trtllm-build: {release.note}; use --runtime pytorch, "
            f"or one of {known} (`tpforge migrate` maps the settings)"
        )
    raise UsageError(
        f"TensorRT-LLM {release.trtllm}: the arguments of runtime {runtime} are not in the table; "
        f"use one of {known}"
    )


def version_key(version: str) -> tuple[int | float, ...]:
    """An order of versions: numbers by value, a release candidate before its release.

    Raises:
        ValueError: it is not a version.
    """
    match = re.match(r"(?P<core>\d+(?:\.\d+)*)(?:rc(?P<candidate>\d+))?", version.removeprefix("v"))
    if match is None:
        raise ValueError(f"{version!r} is not a version")
    numbers = [int(part) for part in match["core"].split(".")]
    padded = [*numbers, 0, 0, 0, 0][:4]
    return (*padded, int(match["candidate"]) if match["candidate"] else float("inf"))
