"""The files of a split .gguf: found from the first, which alone has the metadata, and held to what each says.

It reads no tensors. Source: llama.cpp, llama_split_path and llama-model-loader.cpp (split.no, split.count,
split.tensors.count; names end in -00001-of-00003.gguf).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tpforge.errors import InputRefused

_NAME = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
_MOST_PARTS = 99_999


def split_value(fields: Mapping[str, Any], key: str) -> int | None:
    """An integer of the metadata; None when it is not there, or is none."""
    field = fields.get(f"split.{key}")
    value = None if field is None or len(field.types) != 1 else field.contents()
    return value if type(value) is int else None


def find_parts(path: Path, fields: Mapping[str, Any]) -> tuple[Path, ...]:
    """All files of the model whose first file is `path`; itself alone when it is not split.

    Raises:
        InputRefused: it is another part than the first, its name does not lead to the others, or some are
            missing.
    """
    count, number = split_value(fields, "count") or 1, split_value(fields, "no") or 0
    if count == 1:
        return (path,)
    name = _NAME.fullmatch(path.name)
    what = f"{path}: is part {number + 1} of {count} of a split .gguf"
    if name is None or not 1 < count <= _MOST_PARTS or int(name["count"]) != count:
        raise InputRefused(
            f"{what}, and its name does not end in -{number + 1:05d}-of-{count:05d}.gguf, by which the "
            "others are found; give the files the names that llama.cpp gave them"
        )
    if int(name["number"]) != number + 1:
        raise InputRefused(f"{what}, and its name says part {int(name['number'])}; one of the two is wrong")
    parts = [path.with_name(f"{name['stem']}-{one:05d}-of-{count:05d}.gguf") for one in range(1, count + 1)]
    if number:
        raise InputRefused(f"{what}; give the first, {parts[0].name}, which has the metadata of all")
    if missing := [one.name for one in parts if not one.is_file()]:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputRefused(f"{what}: missing beside it: {', '.join(missing[:3])}{more}; download all of them")
    return tuple(parts)


def refuse_mixed(
    parts: Sequence[Path], fields: Sequence[Mapping[str, Any]], *, names: Sequence[Sequence[str]]
) -> None:
    """Raise InputRefused where the parts are not those of one model; `names` are each one's tensors."""
    problems = []
    for place, (path, held) in enumerate(zip(parts, fields, strict=True)):
        number, count = split_value(held, "no"), split_value(held, "count")
        if (number, count) != (place, len(parts)):
            said = "no part at all" if number is None else f"part {number + 1} of {count}"
            problems.append(f"{path.name}: says {said}, expected part {place + 1} of {len(parts)}")
    every = [name for one in names for name in one]
    if twice := sorted(name for name, number in Counter(every).items() if number > 1):
        problems.append(f"in more than one part: {', '.join(twice[:5])}")
    stated = split_value(fields[0], "tensors.count")
    if stated is not None and stated != len(every):
        problems.append(f"found {len(every)} tensors in all parts, expected {stated} (split.tensors.count)")
    if problems:
        raise InputRefused.listing(f"{parts[0]}: its parts do not belong together:", problems)
