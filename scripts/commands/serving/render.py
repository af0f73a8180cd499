"""`tpforge render`: the Triton model repository of an engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from scripts.cli.options import repository
from scripts.cli.options.common import DEBUG, ENGINE, FORCE, JSON, out_option
from scripts.cli.output import Output


@click.command("render")
@ENGINE
@repository.repository_options()
@out_option("Where to write.  [default: repository beside the engine]")
@FORCE
@JSON
@DEBUG
def command(engine: str | None, out: Path | None, force: bool, as_json: bool, **values: Any) -> None:
    """Write the Triton model repository of an engine.

    ENGINE is a folder, or a name under out/; without it the newest one there. The repository has the models
    preprocessing, tensorrt_llm, postprocessing, ensemble and tensorrt_llm_bls, or tensorrt_llm alone for
    runtime pytorch, and needs nothing else of tpforge. An existing one is replaced only with --force.
    """
    from engines.store import read_manifest
    from scripts.flows.render import render_repository
    from tpforge.outputs.places import find_engine
    from tpforge.repository_options import repository_options
    from tpforge.trtllm.arguments import parse_pairs

    output = Output(as_json=as_json)
    places = find_engine(engine)
    if engine is None:
        output.note(f"engine: {places.engine} (the newest)")
    values["parameters"] = parse_pairs(values["parameters"], option="--parameter")
    options = repository_options(values, runtime=read_manifest(places.engine).runtime, spelled=_flag)
    rendered = render_repository(places, options, out=out, force=force)
    output.result(f"{rendered.path}: {', '.join(rendered.models)}")
    output.record(
        "repository",
        {
            "path": str(rendered.path),
            "models": list(rendered.models),
            "files": list(rendered.files),
            "options": options.model_dump(mode="json"),
        },
    )


def _flag(name: str) -> str:
    return f"--{ {'parameters': 'parameter'}.get(name, name).replace('_', '-') }"
