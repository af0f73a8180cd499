"""Conversions that end amid their work by a signal to themselves, for processes of their own.

They change the modules of the converter as they are loaded here.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import builders.conversion.convert
import builders.conversion.hashed_file as files
import builders.conversion.rank_writing as writing
from builders.conversion.planned import plan_conversion
from builders.sources import open_source
from scripts.main import main
from tpforge.outputs.atomic import atomic_folder
from tpforge.shards.mapping import Mapping


def convert_until(stop: int, number: int, model: Path, options: tuple[str, ...]) -> int:
    """`tpforge convert` to the folder `out`; ends by `number` after `stop` target tensors, -1: never.

    Blocks are as small as can be; those that are on their way arrive before the signal does.
    """
    files._LEAST_BLOCK_BYTES = files._MOST_BLOCK_BYTES = 4096
    write, count = writing._write_tensor, 0

    def counted(*arguments: Any, **named: Any) -> None:
        nonlocal count
        if count == stop:
            for writer in arguments[2]:
                with writer._changed:
                    writer._changed.wait_for(lambda writer=writer: not writer._on_the_way)
            os.kill(os.getpid(), number)
        count += 1
        write(*arguments, **named)

    writing._write_tensor = counted
    status = main(["convert", str(model), "--tp", "2", "--pp", "2", "--out", "out", *options])
    print(f"wrote {count} tensors")
    return status


def convert_killed(model: Path, out: Path, stop: int) -> int:
    """Convert as a build does, killed before the slice number `stop`; -1: never."""
    write, count = writing._write_slice, 0

    def counted(*arguments: Any, **named: Any) -> None:
        nonlocal count
        count += 1
        if count == stop:
            os.kill(os.getpid(), signal.SIGKILL)
        write(*arguments, **named)

    writing._write_slice = counted
    with open_source(str(model)) as source, atomic_folder(out) as folder:
        planned = plan_conversion(source, mapping=Mapping(tp_size=2))
        builders.conversion.convert.convert(source, planned, out=folder)
    return 0
