"""From an engine folder to a Triton model repository that needs nothing else of this checkout.

It computes what the templates print; it starts no server. What it rendered is parsed back and checked
before it takes its place.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpforge.errors import InputRefused, UsageError
from tpforge.manifest import Manifest
from tpforge.outputs.atomic import atomic_folder
from tpforge.outputs.written import written_names
from tpforge.repository_options import CommonOptions, ReferenceOptions
from tpforge.system.linking import link_tree
from triton_repo.render.check import check_repository
from triton_repo.render.contract import MODELS, ensemble_steps, expected_tensors

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parents[1] / "templates"
RUNTIME_PACKAGE = "reference"
_SERVING_PACKAGE = "serving"
_EMBEDDED_ENGINE = "engine"


@dataclass(frozen=True)
class RenderedRepository:
    """A repository on disk; `files` are relative to `path`, sorted."""

    path: Path
    models: tuple[str, ...]
    files: tuple[str, ...]


def render(
    engine_dir: Path,
    manifest: Manifest,
    *,
    out: Path,
    runtime_source: Path,
    options: ReferenceOptions,
    force: bool = False,
) -> RenderedRepository:
    """Write the repository of an engine to `out`, whole or not at all.

    `runtime_source` is the folder of the reference runtime, which is copied beside the tensorrt_llm
    model's code.

    Raises:
        InputRefused: the engine lacks what the repository needs, or `out` exists and `force` is not given.
        UsageError: the engine is of another runtime, or smaller than the options ask.
    """
    if manifest.runtime != "reference":
        raise UsageError(f"{engine_dir}: is an engine of runtime {manifest.runtime}; expected reference")
    _refuse_incomplete(engine_dir)
    values = _ReferenceValues(engine_dir.resolve(), manifest, options)
    with atomic_folder(out, force=force) as folder:
        environment = environment_of(TEMPLATES / "reference")
        for model in MODELS:
            write_model(folder / model, environment, values)
        runtime = folder / "tensorrt_llm" / "1" / RUNTIME_PACKAGE
        copy_package(runtime_source, runtime)
        if options.embed_engine:
            link_tree(engine_dir, folder / "tensorrt_llm" / "1" / _EMBEDDED_ENGINE)
        problems = check_repository(folder)
        if problems:
            raise InputRefused.listing(f"{out}: the rendered repository is not right:", problems)
    files = written_names(out)
    return RenderedRepository(path=out, models=MODELS, files=files)


class Values:
    """What the templates print for each model of an engine."""

    def __init__(self, engine_dir: Path, manifest: Manifest, options: CommonOptions) -> None:
        limit = manifest.limits.max_batch_size
        asked = limit if options.max_batch_size is None else options.max_batch_size
        if not 1 <= asked <= limit:
            raise UsageError(f"max_batch_size={asked} does not fit the engine; use 1 to {limit}")
        self._engine_dir, self._manifest = engine_dir, manifest
        self._options = options.model_copy(update={"max_queue_size": options.queue_size(asked)})
        self.max_batch_size = asked

    def context(self, model: str) -> dict[str, Any]:
        """The template's variables of a model."""
        options = self._options
        return {
            "contract": expected_tensors(model),
            "steps": ensemble_steps(),
            "max_batch_size": self.max_batch_size,
            "decoupled": text_of(options.decoupled),
            "preprocessing_instances": options.preprocessing_instances,
            "parameters": self.parameters(model),
        }

    def parameters(self, model: str) -> dict[str, str]:
        """The `parameters` of a model, in the contract's order."""
        options, manifest = self._options, self._manifest
        engine = self._engine_path(model)
        tokens = manifest.model.special_tokens
        known: dict[str, int | str] = {
            "tokenizer_dir": f"{engine}/tokenizer",
            "gpt_model_path": engine,
            "gpt_model_type": "inflight_fused_batching",
            "max_beam_width": 1,
            "FORCE_CPU_ONLY_INPUT_TENSORS": "yes",
            "max_input_len": manifest.limits.max_input_len,
            "max_seq_len": manifest.limits.max_seq_len,
            "end_id": tokens.end_ids[0] if tokens.end_ids else "",
            "end_ids": self._end_ids,
            "pad_id": "" if tokens.pad_id is None else tokens.pad_id,
            "stops_abandoned": self._stops_abandoned,
            "tensorrt_llm_model_name": "tensorrt_llm",
            "tensorrt_llm_draft_model_name": "",
            "multimodal_encoders_name": "",
        }
        parameters = {}
        for key in expected_tensors(model).parameters:
            value = known[key] if key in known else getattr(options, key)
            parameters[key] = text_of(value)
        return parameters

    @property
    def _end_ids(self) -> str:
        """The end tokens that preprocessing tells of; the reference runtime and the front know their own."""
        return ""

    @property
    def _stops_abandoned(self) -> bool:
        """Whether postprocessing stops streams that nobody listens to; without decoupling there are none."""
        return self._options.decoupled

    def _engine_path(self, model: str) -> str:
        """The engine as the model's config names it."""
        return self._engine_dir.as_posix()


class _ReferenceValues(Values):
    """What the templates print for an engine that may lie inside the repository."""

    def __init__(self, engine_dir: Path, manifest: Manifest, options: ReferenceOptions) -> None:
        super().__init__(engine_dir, manifest, options)
        self._is_embedded = options.embed_engine

    def _engine_path(self, model: str) -> str:
        """Absolute, or relative to the model's version folder."""
        if not self._is_embedded:
            return super()._engine_path(model)
        inside = _EMBEDDED_ENGINE
        return inside if model == "tensorrt_llm" else f"../../tensorrt_llm/1/{inside}"


def text_of(value: bool | int | str | None) -> str:
    """A value as a parameter of config.pbtxt; nothing is the server's own choice."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _refuse_incomplete(engine_dir: Path) -> None:
    needed = ("engine.json", "checkpoint/config.json", "tokenizer/tokenizer.json")
    problems = [f"{name}: missing" for name in needed if not (engine_dir / name).is_file()]
    if problems:
        raise InputRefused.listing(f"{engine_dir}: is not a complete engine; build it again:", problems)


def environment_of(templates: Path) -> Environment:
    """Jinja over a folder of templates: an undefined variable is an error, and text is quoted for pbtxt."""
    from google.protobuf.text_encoding import CEscape
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(templates),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["quoted"] = lambda text: f'"{CEscape(text, as_utf8=True)}"'
    return environment


def write_model(folder: Path, environment: Environment, values: Values) -> None:
    """Write one model: config.pbtxt, and beside 1/model.py the package that it imports."""
    version = folder / "1"
    version.mkdir(parents=True)
    template = environment.get_template(f"{folder.name}/config.pbtxt.j2")
    text = template.render(values.context(folder.name))
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")
    source = TEMPLATES / "reference" / folder.name / "1" / "model.py"
    if not source.is_file():
        # Triton wants the version folder of an ensemble too; archives drop empty folders.
        (version / ".keep").touch()
        return
    shutil.copyfile(source, version / "model.py")
    copy_package(TEMPLATES / "reference" / _SERVING_PACKAGE, version / _SERVING_PACKAGE)


def copy_package(source: Path, target: Path) -> None:
    """Copy the modules of a Python package, and of the packages in it.

    Raises:
        InputRefused: it is none.
    """
    if not (source / "__init__.py").is_file():
        raise InputRefused(f"{source}: is not a Python package; expected __init__.py in it")
    target.mkdir(parents=True)
    for path in sorted(source.rglob("*.py")):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)
