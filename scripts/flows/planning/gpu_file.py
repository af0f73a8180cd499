"""The user's own GPUs and prices, from a TOML file: what `--gpu-file` reads.

It holds no GPU that is known without the file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tpforge.errors import InputRefused
from tpforge.plan.hardware.gpus import Gpu, Prices, find_gpu
from tpforge.toml_text import parse_toml

_KEYS = ("gpu", "per_gpu_hour", "currency")
_HOST = "host"
"""What `--gpu` calls the GPUs of this host by."""


def read_gpu_file(path: Path) -> tuple[tuple[Gpu, ...], Prices]:
    """The user's own GPUs ([[gpu]] as in gpus.toml), and prices ([per_gpu_hour], by any name of a GPU).

    Raises:
        InputRefused: the file is missing, not TOML, or has wrong values; all are listed.
    """
    values = _values(path)
    problems = [
        f"{key}: unknown key; expected gpu, per_gpu_hour or currency" for key in set(values) - set(_KEYS)
    ]
    own, wrong = _gpus(values.get("gpu", []))
    try:
        stated = Prices(per_gpu_hour=values.get("per_gpu_hour", {}), currency=values.get("currency", ""))
    except ValidationError as error:
        stated = Prices()
        problems += _said(error, "")
    prices, unknown = _by_gpu(stated, own)
    # A price of a GPU whose row is wrong is not unknown, too.
    problems += [*wrong, *(() if wrong else unknown)]
    if problems:
        raise InputRefused.listing(f"{path}: is not a list of GPUs:", problems)
    return own, prices


def _values(path: Path) -> Mapping[str, Any]:
    try:
        return parse_toml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputRefused(f"{path}: missing") from None
    except IsADirectoryError:
        raise InputRefused(f"{path}: is a folder, and no TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputRefused(f"{path}: not valid TOML: {error}") from error


def _gpus(rows: object) -> tuple[tuple[Gpu, ...], list[str]]:
    found: list[Gpu] = []
    problems: list[str] = []
    for index, row in enumerate(rows if isinstance(rows, list) else [rows], start=1):
        try:
            gpu = Gpu.model_validate(row)
        except ValidationError as error:
            problems += _said(error, f"gpu {index}: ")
            continue
        if gpu.name == _HOST:
            problems.append(f"gpu {index}: name: `host` stands for the GPUs of this host; use another name")
        if any(gpu.name == other.name for other in found):
            problems.append(f"gpu {index}: name: {gpu.name} is there twice")
        found.append(gpu)
    return tuple(found), problems


def _said(error: ValidationError, where: str) -> Iterator[str]:
    for one in error.errors():
        key = ".".join(map(str, one["loc"]))
        text = one["msg"].removeprefix("Value error, ")
        if one["type"] == "extra_forbidden":
            text = f"unknown key; expected {', '.join(Gpu.model_fields)}"
        elif not isinstance(one["input"], dict):
            text += f", found {one['input']!r:.60}"
        yield f"{where}{f'{key}: ' if key else ''}{text}"


def _by_gpu(stated: Prices, own: tuple[Gpu, ...]) -> tuple[Prices, list[str]]:
    """The prices by the names of the GPUs, and those of none: a price that nothing reads is a mistake."""
    prices: dict[str, float] = {}
    problems = []
    for name, price in stated.per_gpu_hour.items():
        try:
            gpu = find_gpu(name, own=own)
        except InputRefused as error:
            problems.append(f"per_gpu_hour.{name}: {str(error).partition(' Known are ')[0].rstrip('.')}")
            continue
        if gpu.name in prices:
            problems.append(f"per_gpu_hour.{name}: {gpu.name} has a price already")
        prices[gpu.name] = price
    return stated.model_copy(update={"per_gpu_hour": prices}), problems
