"""Tiny engines built from tiny checkpoints by the real converter, for tests of runtime and proof."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders.conversion.convert import convert
from builders.conversion.planned import plan_conversion
from builders.sources import open_source
from engines.store import write_manifest
from tests.support.tiny import write_tiny_llama
from tpforge import __version__
from tpforge.dtypes import DType
from tpforge.manifest import FileRecord, Limits, Manifest, SourceRecord
from tpforge.quantization import Quantization
from tpforge.shards.mapping import Mapping


def write_tiny_engine(
    folder: Path,
    *,
    tp_size: int = 1,
    pp_size: int = 1,
    dtype: DType | None = None,
    parallel_embedding_dim: int | None = None,
    limits: Limits | None = None,
    **checkpoint: Any,
) -> tuple[Path, Manifest, Path]:
    """Write folder/source and folder/engine; give the engine, its manifest and the source."""
    source_dir = write_tiny_llama(folder / "source", **checkpoint)
    engine, manifest = write_engine_of(
        source_dir,
        folder / "engine",
        mapping=Mapping(tp_size=tp_size, pp_size=pp_size),
        dtype=dtype,
        parallel_embedding_dim=parallel_embedding_dim,
        limits=limits,
    )
    return engine, manifest, source_dir


def write_engine_of(
    source_dir: Path,
    engine: Path,
    *,
    mapping: Mapping,
    dtype: DType | None = None,
    parallel_embedding_dim: int | None = None,
    limits: Limits | None = None,
    quantization: Quantization | None = None,
) -> tuple[Path, Manifest]:
    """Convert any checkpoint to the new folder `engine`; give it and its manifest."""
    (engine / "checkpoint").mkdir(parents=True)
    (engine / "tokenizer").mkdir()
    with open_source(str(source_dir)) as source:
        conversion = convert(
            source,
            plan_conversion(
                source,
                mapping=mapping,
                dtype=dtype,
                parallel_embedding_dim=parallel_embedding_dim,
                quantization=quantization,
            ),
            out=engine / "checkpoint",
        )
        if (source_dir / "tokenizer.json").exists():
            source.write_tokenizer(engine / "tokenizer")
        manifest = Manifest(
            name="tiny",
            tpforge_version=__version__,
            runtime="reference",
            source=SourceRecord(kind="huggingface", location=str(source_dir), files=conversion.input_files),
            model=source.spec,
            mapping=mapping,
            padding=conversion.plan.padding,
            parallel_embedding_dim=parallel_embedding_dim,
            dtype=conversion.dtype,
            quantization=quantization,
            limits=limits or Limits(max_batch_size=4, max_input_len=256, max_seq_len=320),
            files=tuple(
                FileRecord(path=f"checkpoint/{file.path}", size=file.size, sha256=file.sha256)
                for file in conversion.files
            ),
            command=("test",),
        )
    write_manifest(engine, manifest)
    return engine, manifest
