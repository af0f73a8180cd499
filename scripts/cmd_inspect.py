"""`tpforge inspect`: what a checkpoint holds and how it divides over ranks."""

from __future__ import annotations

from typing import Any

import click

from scripts import _options
from scripts._output import Output, table


@click.command("inspect")
@_options.MODEL
@_options.JSON
@_options.DEBUG
def command(model: str, as_json: bool) -> None:
    """Show what a checkpoint holds and how it divides over ranks.

    MODEL is a Hugging Face directory, a hub id (with @revision), a .gguf file, or `demo`. The tensors are
    checked against what the config declares: missing, unknown and misshapen ones are refused.
    """
    from scripts.inspection import inspect_model

    output = Output(as_json=as_json)
    found = inspect_model(model)
    output.record("inspection", found.to_dict())
    spec = found.model
    rows: list[tuple[str, Any]] = [
        ("source", f"{found.source} {found.location}"),
        ("revision", found.revision or "unknown"),
        ("license", found.license or "not declared"),
        ("architecture", spec.architecture),
        ("layers", spec.num_layers),
        ("hidden size", spec.hidden_size),
        ("attention heads", f"{spec.attention.num_heads}, {spec.attention.num_kv_heads} KV"),
        ("head size", spec.attention.head_size),
        ("MLP size", spec.mlp.intermediate_size),
        ("vocabulary", spec.vocab_size),
        ("positions", spec.max_position_embeddings),
        ("tied embeddings", "yes" if spec.tie_word_embeddings else "no"),
        ("dtype", spec.dtype.value),
        ("tensors", found.num_tensors),
        ("parameters", f"{found.num_parameters:,}"),
    ]
    output.result(table([(name, str(value)) for name, value in rows], header=("what", "value")))
    for name, reason in found.dropped.items():
        output.note(f"left out: {name}: {reason}")
    for note in found.notes:
        output.note(f"note: {note}")
    output.result("")
    output.result(table([(f"tp={tp}", text) for tp, text in found.divisions], header=("ranks", "division")))
