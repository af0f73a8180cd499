"""From an engine to its Triton model repository: composes engines and triton_repo.

It prints nothing; `build` makes the engine and `serve` runs the server.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from scripts.flows.places import Places
from scripts.flows.provenance_freshness import engine_key, keep_stage, read_stages, source_key, text_key
from tpforge.atomic import refuse_existing
from tpforge.recipe import RepositoryOptions

if TYPE_CHECKING:
    from tpforge.manifest import Manifest
    from triton_repo.render.repository import RenderedRepository

STEP = "render"
_DECIDING = (
    "repository.py",
    "tensorrt.py",
    "llmapi.py",
    "front.py",
    "contract.toml",
    "llm_contract.toml",
    "parameters.toml",
)


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
        key = _key(places, manifest, options)
        keep_stage(places, STEP, {"key": key, "options": options.model_dump(mode="json")})
    return rendered


def _render(
    places: Places, manifest: Manifest, options: RepositoryOptions, *, out: Path, force: bool
) -> RenderedRepository:
    """The repository of whichever runtime the engine is of."""
    from engines import reference

    engine = places.engine.resolve()
    runtime_source = Path(reference.__file__).parent
    if manifest.runtime == "pytorch":
        from triton_repo.render.front import render_front
        from triton_repo.render.llmapi import render_llmapi

        text = (engine / "llm.yaml").read_text(encoding="utf-8")
        render_pytorch = render_front if options.front == "inflight" else render_llmapi
        return render_pytorch(engine, manifest, out=out, options=options, llm_yaml=text, force=force)
    if manifest.runtime == "tensorrt":
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

    kept = read_stages(places).get(STEP, {})
    if options is None:
        options = _kept_options(kept)
    key = _key(places, read_manifest(places.engine), options)
    if places.repository.is_dir() and kept.get("key") == key:
        return places.repository, False
    render_repository(places, options, force=True)
    return places.repository, True


def kept_options(places: Places) -> RepositoryOptions:
    """The options that the repository beside an engine was rendered with, or the defaults."""
    return _kept_options(read_stages(places).get(STEP, {}))


def _kept_options(kept: dict[str, Any]) -> RepositoryOptions:
    """The options of the last rendering; the defaults when another version of tpforge wrote them."""
    try:
        return RepositoryOptions.model_validate(kept.get("options", {}))
    except ValidationError:
        return RepositoryOptions()


def repository_key(places: Places) -> str | None:
    """The key that the repository beside an engine was rendered with, if it was rendered there."""
    key = read_stages(places).get(STEP, {}).get("key")
    return key if isinstance(key, str) else None


def _key(places: Places, manifest: Manifest, options: RepositoryOptions) -> str:
    """Everything that decides the content of the repository."""
    import triton_repo
    from engines import reference

    package = Path(triton_repo.__file__).parent
    ours = source_key([Path(reference.__file__).parent, package / "templates"])
    return text_key(
        [
            str(places.engine.resolve()),
            engine_key(manifest),
            options.model_dump_json(),
            ours,
            *((package / "render" / name).read_text(encoding="utf-8") for name in _DECIDING),
        ]
    )
