"""Releases of TensorRT-LLM: what each needs, which containers hold it, what it can do; from a table.

It does not look at this machine: `engines.host` does.
"""

from __future__ import annotations

import datetime
import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from tpforge.errors import UsageError
from tpforge.records import Record
from tpforge.trtllm.learned import NAME, Learned, find_learned, learned_versions

DEFAULT_RELEASE = "1.2.1"
"""The last stable release with trtllm-build; it serves both runtimes."""

_TRITON_IMAGE = "nvcr.io/nvidia/tritonserver:{tag}-trtllm-python-py3"
_RELEASE_IMAGE = "nvcr.io/nvidia/tensorrt-llm/release:{trtllm}"
_WITHOUT_ENGINES = "1.3.0rc21"
"""Source: NVIDIA/TensorRT-LLM, docs/source/legacy/tensorrt-backend-removal.md."""

# As PEP 440 takes them: 1.3.0-rc29 and v1.3.0RC29 are 1.3.0rc29. ASCII, since other digits are digits too.
_SPELLED = re.compile(
    r"v?(?P<core>\d{1,9}(\.\d{1,9}){0,3})"
    r"([-_.]?rc[-_.]?(?P<candidate>\d{1,9}))?([-_.]?post[-_.]?(?P<post>\d{1,9}))?",
    re.ASCII | re.IGNORECASE,
)
_FULL = 3
"""Numbers of a version; with fewer it names a line of releases."""

Sure = Literal["read", "near", "unsure"]


class Release(Record):
    """One release; an empty string is a version that upstream's tables do not give.

    `engines` says whether trtllm-build exists; `build_arguments` and `llm_arguments` name the tables of
    arguments that hold for it, or are None; `arguments_sure` says how sure the latter is. `taken_from` is the
    release of the table whose row was taken for one that the table does not have. `learned` is the hash of
    what was learned from an installation, which goes before the tables.
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
    arguments_sure: Sure = "unsure"
    date: str | None = None
    pypi: bool | None = None
    note: str | None = None
    taken_from: str | None = None
    learned: str | None = None
    sources: tuple[str, ...]

    @property
    def image(self) -> str | None:
        """The newest Triton container that holds this release; None when there is none listed."""
        return _TRITON_IMAGE.format(tag=self.triton[-1]) if self.triton else None

    @property
    def release_image(self) -> str | None:
        """TensorRT-LLM's own container of it, which has trtllm-serve; by upstream's naming, from 1.2 on."""
        if version_key(self.trtllm) < version_key("1.2.0"):
            return None
        return _RELEASE_IMAGE.format(trtllm=self.trtllm)

    @property
    def is_candidate(self) -> bool:
        """Whether it is a release candidate, and not a release."""
        return "rc" in self.trtllm

    @property
    def runtimes(self) -> tuple[Literal["tensorrt", "pytorch"], ...]:
        """The runtimes that tpforge can prepare for it: those whose arguments are known."""
        tensorrt: tuple[Literal["tensorrt"], ...] = ("tensorrt",) if self.build_arguments else ()
        pytorch: tuple[Literal["pytorch"], ...] = ("pytorch",) if self.llm_arguments else ()
        return (*tensorrt, *pytorch)


@cache
def _table() -> dict[str, object]:
    return tomllib.loads(files("tpforge.trtllm").joinpath("versions.toml").read_text(encoding="utf-8"))


@cache
def releases() -> tuple[Release, ...]:
    """All releases of the table, oldest first."""
    rows = _table()["release"]
    assert isinstance(rows, list)
    table = tuple(Release.model_validate(row) for row in rows)
    names = [release.trtllm for release in table]
    assert len(set(names)) == len(names), "a release is given twice"
    assert list(names) == sorted(names, key=version_key), "the releases are not in order"
    return table


def tables_read() -> datetime.date:
    """The day on which the tables were compared with upstream."""
    day = _table()["read"]
    assert isinstance(day, datetime.date)
    return day


def read_version(text: str) -> str:
    """The version that a person wrote, as upstream spells it: ``1.3.0rc29.post1``.

    One that was learned is taken as it was learned; the others need not be in the table.

    Raises:
        UsageError: it is a line of releases, or no version at all; with the releases that may be meant.
    """
    bare = text.strip().removeprefix("v")
    if bare in learned_versions():
        return bare
    match = _SPELLED.fullmatch(text.strip())
    if match is None:
        raise UsageError(
            f"TensorRT-LLM {text!r}: is no version, as {DEFAULT_RELEASE} is; {_newest_words()}. "
            "An installed one of another name is known once `tpforge versions --learn` has read it"
        )
    numbers = [int(part) for part in match["core"].split(".")]
    if len(numbers) < _FULL and match["candidate"] is None:
        raise UsageError(_line_words(bare, numbers))
    core = ".".join(str(number) for number in (*numbers, 0, 0)[: max(_FULL, len(numbers))])
    candidate = "" if match["candidate"] is None else f"rc{int(match['candidate'])}"
    return core + candidate + ("" if match["post"] is None else f".post{int(match['post'])}")


def find_release(version: str) -> Release:
    """The release of that version, as `read_version` takes it; what was learned goes before the table.

    One that the table does not have takes the row of the nearest of its line (1.3), the earlier one first.

    Raises:
        UsageError: it is no version, or the table has none of its line.
        InputRefused: what was learned of it was changed since.
    """
    wanted = read_version(version)
    learned = find_learned(wanted)
    if learned is not None:
        return _with_learned(learned)
    return _shipped(wanted)


def known_releases() -> tuple[Release, ...]:
    """The releases of the table, and those that were learned, oldest first."""
    names = {release.trtllm for release in releases()} | set(learned_versions())
    return tuple(find_release(name) for name in sorted(names, key=version_key))


def _shipped(wanted: str) -> Release:
    for release in releases():
        if release.trtllm == wanted:
            return release
    nearest = _nearest(wanted)
    if nearest is None:
        raise UsageError(
            f"TensorRT-LLM {wanted}: not in the table, nor is any release of its line; `tpforge versions` "
            "lists what is. If it is installed, or in a container, `tpforge versions --learn` reads it"
        )
    return nearest.model_copy(
        update={
            "trtllm": wanted,
            "triton": (),
            "arguments_sure": "unsure",
            "date": None,
            "pypi": None,
            "note": f"not in the table; what is said of it is taken from {nearest.trtllm}",
            "taken_from": nearest.trtllm,
        }
    )


def release_for(version: str, *, runtime: Literal["tensorrt", "pytorch"]) -> Release:
    """The release, which must be one that tpforge can prepare `runtime` for.

    Raises:
        UsageError: there is no such release, it has no such runtime, or its arguments are not known.
    """
    release = find_release(version)
    if runtime in release.runtimes:
        return release
    known = [one.trtllm for one in releases() if runtime in one.runtimes]
    if runtime == "tensorrt" and not release.engines:
        raise UsageError(
            f"TensorRT-LLM {release.trtllm} has no trtllm-build: {_WITHOUT_ENGINES} dropped it; use "
            f"--runtime pytorch, or one of {', '.join(known)} (`tpforge migrate` maps the settings)"
        )
    raise UsageError(
        f"TensorRT-LLM {release.trtllm}: the arguments of runtime {runtime} are not in the table; "
        f"use one of {_span(known)}{_other_runtime(release)}"
    )


def version_key(version: str) -> tuple[int | float, ...]:
    """An order of versions: numbers by value, a release candidate before its release, a post-release after.

    Raises:
        ValueError: it is not a version.
    """
    match = re.match(
        r"(?P<core>\d+(?:\.\d+)*)(?:rc(?P<candidate>\d+))?(?:\.post(?P<post>\d+))?", version.removeprefix("v")
    )
    if match is None:
        raise ValueError(f"{version!r} is not a version")
    numbers = [int(part) for part in match["core"].split(".")]
    padded = [*numbers, 0, 0, 0, 0][:4]
    return (*padded, int(match["candidate"]) if match["candidate"] else float("inf"), int(match["post"] or 0))


def _newest_words() -> str:
    candidates = [one.trtllm for one in releases() if one.is_candidate]
    stable = [one.trtllm for one in releases() if not one.is_candidate]
    return f"the newest known are {stable[-1]}, a stable release, and {candidates[-1]}, a candidate"


def _line_words(line: str, numbers: list[int]) -> str:
    """What to say of 1.3, which names many releases, and none by itself."""
    known = [one.trtllm for one in known_releases() if version_key(one.trtllm)[: len(numbers)] == (*numbers,)]
    if not known:
        return (
            f"TensorRT-LLM {line}: not in the table, nor is any release of its line; {_newest_words()}. If "
            "it is installed, or in a container, `tpforge versions --learn` reads it; then give it in full"
        )
    return f"TensorRT-LLM {line}: is a line of releases; give one in full, as {_last(known)}"


def _last(names: list[str]) -> str:
    """The newest stable release of a line, if there is one, and the newest of all."""
    stable = [name for name in names if "rc" not in name][-1:]
    return " or ".join(dict.fromkeys((*stable, names[-1])))


def _nearest(wanted: str) -> Release | None:
    """The newest release before `wanted` with the same first two numbers, or else the next one."""
    key = version_key(wanted)
    line = [one for one in releases() if version_key(one.trtllm)[:2] == key[:2]]
    earlier = [one for one in line if version_key(one.trtllm) < key]
    return earlier[-1] if earlier else line[0] if line else None


def _with_learned(learned: Learned) -> Release:
    """The release as its installation says; the shipped row where there is one, for the rest."""
    builds = learned.build_options is not None
    own: dict[str, Any] = {
        "engines": builds,
        "build_arguments": NAME if builds else None,
        "llm_arguments": NAME,
        "arguments_sure": "read",
        "learned": learned.sha256,
        **{
            name: learned.packages[name]
            for name in ("torch", "transformers", "tensorrt", "cuda")
            if name in learned.packages
        },
    }
    own |= {"modelopt": learned.packages["nvidia-modelopt"]} if "nvidia-modelopt" in learned.packages else {}
    try:
        return _shipped(learned.trtllm).model_copy(update=own)
    except UsageError:
        names = ("tensorrt", "cuda", "driver", "torch", "transformers", "modelopt")
        empty: dict[str, Any] = dict.fromkeys(names, "")
        values = {**empty, "triton": (), "default_backend": "pytorch", **own}
        return Release(trtllm=learned.trtllm, sources=(learned.where,), **values)


def _span(names: list[str]) -> str:
    """All of a few, the first and last of many."""
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} to {names[-1]}"


def _other_runtime(release: Release) -> str:
    others = [f"--runtime {one}" for one in release.runtimes]
    return f", or {' or '.join(others)} with {release.trtllm}" if others else ""
