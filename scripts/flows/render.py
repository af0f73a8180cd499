"""From an engine to its Triton model repository: composes engines and triton_repo.

It prints nothing; `build` makes the engine and `serve` runs the server.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from tpforge.errors import UsageError
from tpforge.outputs.atomic import refuse_existing
from tpforge.outputs.deciding_code import code_key
from tpforge.outputs.places import Places
from tpforge.outputs.provenance import Provenance, engine_input, made_of
from tpforge.outputs.stages import is_unchanged, keep_stage, kept_stage
from tpforge.outputs.stages import kept_options as kept_step_options
from tpforge.repository_options import (
    PytorchOptions,
    RepositoryOptions,
    TensorrtOptions,
    repository_options,
)

if TYPE_CHECKING:
    from tpforge.manifest import Manifest
    from triton_repo.render.repository import RenderedRepository

_FOLDER = "engine folder"


def render_repository(
    places: Places, options: RepositoryOptions, *, out: Path | None = None, force: bool = False
) -> RenderedRepository:
    """Write the model repository of an engine, by default beside it.

    Raises:
        InputRefused: the engine is not sound, or `out` exists and `force` is not given.
        UsageError: the options do not fit the engine.
    """
    from engines.store import read_manifest

    manifest = read_manifest(places.engine)
    final = out if out is not None else places.repository
    refuse_existing(final, force=force)
    rendered = _render(places, manifest, options, out=final, force=force)
    if final == places.repository:
        keep_stage(places, "render", _provenance(places, manifest, options))
    return rendered


def _render(
    places: Places, manifest: Manifest, options: RepositoryOptions, *, out: Path, force: bool
) -> RenderedRepository:
    """The repository of whichever runtime the engine is of."""
    from engines import reference

    engine = places.engine.resolve()
    runtime_source = Path(reference.__file__).parent
    if isinstance(options, PytorchOptions):
        from triton_repo.render.front import render_front
        from triton_repo.render.llmapi import render_llmapi

        text = (engine / "llm.yaml").read_text(encoding="utf-8")
        render_pytorch = render_front if options.front == "inflight" else render_llmapi
        return render_pytorch(engine, manifest, out=out, options=options, llm_yaml=text, force=force)
    if isinstance(options, TensorrtOptions):
        from triton_repo.render.tensorrt import render_tensorrt

        return render_tensorrt(
            engine, manifest, out=out, runtime_source=runtime_source, options=options, force=force
        )
    from triton_repo.render.repository import render

    return render(engine, manifest, out=out, runtime_source=runtime_source, options=options, force=force)


def fresh_repository(places: Places, options: RepositoryOptions | None = None) -> tuple[Path, bool]:
    """The repository beside an engine, and whether it had to be rendered now.

    It is kept while the engine, the options, our templates and our runtime are what they were when it was
    rendered; without `options` those it was rendered with hold.

    Raises:
        InputRefused: the engine is not sound.
    """
    from engines.store import read_manifest

    manifest = read_manifest(places.engine)
    options = options if options is not None else kept_options(places, manifest)
    asked = _provenance(places, manifest, options)
    if places.repository.is_dir() and is_unchanged(places, "render", asked=asked):
        return places.repository, False
    render_repository(places, options, force=True)
    return places.repository, True


def kept_options(places: Places, manifest: Manifest) -> RepositoryOptions:
    """The options that the repository beside an engine was rendered with.

    The defaults, when it was not rendered here, or of another runtime or by another version of tpforge.
    """
    kept = {name: value for name, value in kept_step_options(places, "render").items() if name != _FOLDER}
    try:
        return repository_options(kept, runtime=manifest.runtime)
    except (UsageError, ValidationError):
        return repository_options({}, runtime=manifest.runtime)


def rendered_of(places: Places) -> Provenance | None:
    """What the repository beside an engine was rendered of, if it was rendered there."""
    return kept_stage(places, "render")


def _provenance(places: Places, manifest: Manifest, options: RepositoryOptions) -> Provenance:
    """Everything that decides the content of the repository, which names the engine by its folder."""
    folder = str(places.engine.resolve())
    return made_of(
        inputs={"engine": engine_input(manifest, location=folder)},
        options={_FOLDER: folder, **options.model_dump(mode="json")},
        code=code_key(__name__),
    )
