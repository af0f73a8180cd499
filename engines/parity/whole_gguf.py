"""A split .gguf as one file, for transformers, which reads one: joined by gguf-py's own writer.

It judges nothing; what is not whole fails in transformers, or in the comparison. It shares no code with the
reading of a conversion, which the joined file is the truth for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any


@contextmanager
def parsed_once() -> Iterator[None]:
    """Each .gguf file is parsed once by gguf-py, which takes seconds: transformers would four times.

    Nobody changes a reader, so that all may have the same.
    """
    import gguf
    import numpy as np

    class PlainViews(gguf.GGUFReader):  # type: ignore[misc]
        """Slices of a mapped array cost three times those of a plain one."""

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, np.asarray(value) if name == "data" else value)

    before = gguf.GGUFReader
    known: dict[str, PlainViews] = {}

    def reader(path: Path | str) -> PlainViews:
        if str(path) not in known:
            known[str(path)] = PlainViews(path)
        return known[str(path)]

    gguf.GGUFReader = reader
    try:
        yield
    finally:
        gguf.GGUFReader = before


@contextmanager
def whole_gguf(path: Path) -> Iterator[Path]:
    """The file itself, or one that is joined of all its parts, for as long as the context lasts."""
    from gguf import GGUFReader

    count = GGUFReader(path).fields.get("split.count")
    if count is None or int(count.contents()) < 2:
        yield path
        return
    last = int(count.contents())
    parts = [path.with_name(path.name.replace("-00001-of-", f"-{one:05d}-of-")) for one in range(1, last + 1)]
    with TemporaryDirectory(prefix="tpforge-gguf-") as folder:
        yield _join([GGUFReader(part) for part in parts], Path(folder) / "whole.gguf")


def _join(readers: list[Any], out: Path) -> Path:
    from gguf import GGUFValueType, GGUFWriter

    writer = GGUFWriter(out, str(readers[0].fields["general.architecture"].contents()))
    for name, field in readers[0].fields.items():
        if name.startswith(("GGUF.", "split.")) or name == "general.architecture":
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    for reader in readers:
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out
