"""Whether a format works: format x GPU x runtime x version x architecture x shape, before anything is spent.

It answers from the tables alone. What it refuses it explains, with the nearest format that works.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tpforge.errors import InputRefused
from tpforge.quantization import Format, Loadable, Support, find_format, find_kv_format, formats, kv_formats
from tpforge.runtime import Runtime

REMOVED_IN = (1, 3)
"""Without the TensorRT backend from here on. Source: docs/source/legacy/tensorrt-backend-removal.md."""
LLM_API_SINCE = (1, 0)
_RUNTIME_NAMES = {"tensorrt": "TensorRT-LLM engines", "pytorch": "the LLM API", "reference": "reference"}


@dataclass(frozen=True)
class Linear:
    """A matrix of a rank: its name, and the features it takes and gives."""

    name: str
    out_features: int
    in_features: int


@dataclass(frozen=True)
class Question:
    """What is to run where; None is not known, and refuses nothing.

    `sm` is the compute capability without its dot, as 90. `linears` are the matrices of a rank that would be
    quantized. `group_size` None is the format's own.
    """

    format: str
    runtime: Runtime
    kv_cache: str | None = None
    version: str | None = None
    sm: int | None = None
    architecture: str | None = None
    linears: tuple[Linear, ...] = ()
    group_size: int | None = None


@dataclass(frozen=True)
class Verdict:
    """Why it does not work (nothing, when it does), what to know when it does, and what works instead."""

    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()
    nearest: str | None = None

    @property
    def works(self) -> bool:
        """Whether there is no problem."""
        return not self.problems


def judge(question: Question) -> Verdict:
    """The verdict on `question`.

    Raises:
        UsageError: the format does not exist.
    """
    row = find_format(question.format)
    if problems := _problems(question):
        return Verdict(tuple(problems), nearest=_nearest(row, question))
    return Verdict((), notes=tuple(_notes(row, question)))


def require(question: Question) -> tuple[str, ...]:
    """The notes on a question whose answer is yes.

    Raises:
        InputRefused: it does not work; with the reasons and the nearest format that does.
    """
    verdict = judge(question)
    if verdict.works:
        return verdict.notes
    instead = f"use {verdict.nearest}" if verdict.nearest else "no format works here; leave it unquantized"
    raise InputRefused.listing(f"--quantize {question.format} cannot work here; {instead}:", verdict.problems)


def refuse_kv(kv_cache: str, question: Question) -> None:
    """Refuse a format of the KV cache that the runtime does not have, whatever the weights are.

    Raises:
        InputRefused: with the reason.
    """
    if problems := list(_support_problems(find_kv_format(kv_cache), question)):
        raise InputRefused.listing(f"--kv-cache {kv_cache} cannot work here:", problems)


def refuse_two(found: str, asked: str, *, where: str) -> InputRefused:
    """The error for quantizing again what is quantized."""
    return InputRefused(
        f"{where}: the weights are quantized already ({found}), and {asked} is asked for: two quantizations "
        "at once add up their errors; leave out --quantize, or give the unquantized checkpoint"
    )


def _nearest(row: Format, question: Question) -> str | None:
    """What works for the same question and is most like it: another format, else another KV cache too.

    Formats are alike in bits, then in being listed for the GPU, activations, groups and who makes them.
    """

    def distance(other: Format) -> tuple[int, bool, bool, bool, bool]:
        return (
            abs(other.weight_bits - row.weight_bits),
            bool(list(_notes(other, question))),
            other.activations != row.activations,
            bool(other.group_size) != bool(row.group_size),
            other.made_by != row.made_by,
        )

    others = sorted((other for other in formats() if other.made_by != "checkpoint"), key=distance)
    for other in others:
        asked = replace(question, format=other.name, group_size=None)
        if other.name != row.name and not _problems(asked):
            return other.name
    for kv in kv_formats() if question.kv_cache else ():
        for other in [row, *others]:
            if not _problems(replace(question, format=other.name, kv_cache=kv.name)):
                return f"{other.name} --kv-cache {kv.name}"
    return None


def _problems(question: Question) -> list[str]:
    row = find_format(question.format)
    kv = [find_kv_format(question.kv_cache)] if question.kv_cache is not None else []
    return [
        *runtime_problems(question),
        *_support_problems(row, question),
        *_shape_problems(row, question),
        *(problem for one in kv for problem in _support_problems(one, question)),
    ]


def runtime_problems(question: Question) -> Iterator[str]:
    """What the version and the runtime rule out, whatever the format."""
    if question.version is None:
        return
    version = _version(question.version)
    if question.runtime == "tensorrt" and version[:2] >= REMOVED_IN:
        yield (
            f"TensorRT-LLM {question.version} builds no engines: the TensorRT backend was removed in 1.3; "
            "use 1.2.1 or --runtime pytorch"
        )
    if question.runtime == "pytorch" and version[:2] < LLM_API_SINCE:
        yield f"TensorRT-LLM {question.version}: its LLM API is not stable before 1.0; use 1.0 or later"


def _support_problems(row: Loadable, question: Question) -> Iterator[str]:
    if question.runtime == "reference":
        return
    where, support = _RUNTIME_NAMES[question.runtime], row.support(question.runtime)
    if support is None:
        yield f"{row.title}, {where}: {row.refusal[question.runtime]}"
        return
    if reason := support.refused.get(question.sm or 0):
        yield f"{row.title}, {where}: SM{question.sm}: {reason}; {_listed(support)} are supported"
    elif question.sm is not None and question.sm not in (*support.sms, *support.unlisted):
        yield f"{row.title}, {where}: SM{question.sm} is not supported; {_listed(support)} are"
    since = support.since.get(question.sm or 0)
    if since and question.version and _version(question.version) < _version(since):
        yield f"{row.title}, {where}: SM{question.sm} needs {since} or later, found {question.version}"
    if support.architectures and question.architecture and question.architecture not in support.architectures:
        yield (
            f"{row.title}, {where}: {question.architecture} is not supported; "
            f"{' and '.join(support.architectures)} are"
        )


def _shape_problems(row: Format, question: Question) -> Iterator[str]:
    group = question.group_size if question.group_size is not None else row.group_size
    is_grouped = row.made_by == "checkpoint" or row.in_multiple == row.group_size
    in_multiple = group if is_grouped and group else row.in_multiple
    support = None if question.runtime == "reference" else row.support(question.runtime)
    if support is not None:
        in_multiple = math.lcm(in_multiple, support.in_multiple)
        if support.group_sizes and group not in support.group_sizes:
            known = " and ".join(str(size) for size in support.group_sizes)
            yield f"{row.title}: groups of {group}; the kernels of TensorRT-LLM take those of {known}"
    for linear in question.linears:
        if linear.in_features % in_multiple:
            yield (
                f"{row.title}: {linear.name} has {linear.in_features} columns on a rank, "
                f"expected a multiple of {in_multiple}"
            )
        if linear.out_features % row.out_multiple:
            yield (
                f"{row.title}: {linear.name} has {linear.out_features} rows on a rank, "
                f"expected a multiple of {row.out_multiple}"
            )


def _notes(row: Format, question: Question) -> Iterator[str]:
    if question.runtime == "reference":
        return
    rows: list[Loadable] = [row]
    if question.kv_cache is not None:
        rows.append(find_kv_format(question.kv_cache))
    for one in rows:
        support = one.support(question.runtime)
        if support is not None and question.sm in support.unlisted:
            yield f"{one.title}: TensorRT-LLM's support matrix neither lists SM{question.sm} nor rules it out"
        if support is not None and support.architectures and question.architecture is None:
            yield f"{one.title}: only for {' and '.join(support.architectures)}"


def _listed(support: Support) -> str:
    return ", ".join(f"SM{sm}" for sm in support.sms)


def _version(text: str) -> tuple[int, ...]:
    """The numbers of a release; what follows them (rc, post, a build) is left out."""
    match = re.match(r"\d+(\.\d+)*", text)
    if match is None:
        raise InputRefused(f"TensorRT-LLM version {text!r}: expected a number such as 1.2.1")
    return tuple(int(part) for part in match[0].split("."))
