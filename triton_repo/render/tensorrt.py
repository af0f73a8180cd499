"""The model repository of compiled engines: upstream's inflight_batcher_llm with our text models.

preprocessing, postprocessing, ensemble and tensorrt_llm_bls are the same files as in the reference runtime's
repository; tensorrt_llm is TensorRT-LLM's C++ backend. It starts no server, and needs no GPU to be made.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, FileSystemLoader

from tpforge.errors import InputRefused, UsageError
from tpforge.manifest import Manifest
from tpforge.outputs.atomic import atomic_folder
from tpforge.outputs.written import written_names
from tpforge.repository_options import TensorrtOptions
from triton_repo.render.check import check_repository
from triton_repo.render.contract import MODELS
from triton_repo.render.parameters import check_parameters, parameter_texts
from triton_repo.render.repository import (
    RUNTIME_PACKAGE,
    TEMPLATES,
    RenderedRepository,
    Values,
    copy_package,
    environment_of,
    write_model,
)

_GENERATOR = "tensorrt_llm"


def render_tensorrt(
    engine_dir: Path,
    manifest: Manifest,
    *,
    out: Path,
    runtime_source: Path,
    options: TensorrtOptions,
    force: bool = False,
) -> RenderedRepository:
    """Write the repository of an engine of runtime tensorrt to `out`, whole or not at all.

    `runtime_source` is the folder of the reference runtime, for `options.stand_in` alone.

    Raises:
        InputRefused: the engine is not complete, or parameters contradict it or each other.
        UsageError: the engine is of another runtime, or a parameter is not one of this repository.
    """
    _refuse(engine_dir, manifest, stand_in=options.stand_in)
    given = check_parameters({**_windows(manifest), **options.parameters}, manifest)
    values = _TensorrtValues(engine_dir.resolve(), manifest, options, given)
    with atomic_folder(out, force=force) as folder:
        environment = environment_of(TEMPLATES / "reference")
        for model in MODELS:
            if model != _GENERATOR or options.stand_in:
                write_model(folder / model, environment, values)
        if options.stand_in:
            copy_package(runtime_source, folder / _GENERATOR / "1" / RUNTIME_PACKAGE)
        else:
            _write_generator(folder / _GENERATOR, values)
        problems = check_repository(folder, runtime="reference" if options.stand_in else "tensorrt")
        if problems:
            raise InputRefused.listing(f"{out}: the rendered repository is not right:", problems)
    files = written_names(out)
    return RenderedRepository(path=out, models=MODELS, files=files)


class _TensorrtValues(Values):
    """What the templates print: upstream's parameters, and those of ours that the text models need."""

    def __init__(
        self, engine_dir: Path, manifest: Manifest, options: TensorrtOptions, given: dict[str, Any]
    ) -> None:
        super().__init__(engine_dir, manifest, options)
        self._own, self._given = options, given

    @property
    def _stops_abandoned(self) -> bool:
        """The C++ backend does not know the id of such a wish."""
        return self._own.stand_in and super()._stops_abandoned

    @property
    def _end_ids(self) -> str:
        return ",".join(map(str, self._manifest.model.special_tokens.end_ids))

    def context(self, model: str) -> dict[str, Any]:
        """The template's variables of a model."""
        devices = self._given.get("gpu_device_ids")
        return {
            **super().context(model),
            "max_queue_delay_microseconds": self._own.max_queue_delay_microseconds,
            "max_queue_size": self._own.queue_size(self.max_batch_size),
            "num_instances": 1 if devices is None else devices.count(";") + 1,
        }

    def parameters(self, model: str) -> dict[str, str]:
        """Upstream's parameters of a model first, then ours."""
        if model == "ensemble":
            return {}
        own = {} if model == _GENERATOR and not self._own.stand_in else super().parameters(model)
        if model == _GENERATOR and self._own.stand_in:
            return own
        options = self._own
        known = {
            "tokenizer_dir": f"{self._engine_dir.as_posix()}/tokenizer",
            "add_special_tokens": options.add_special_tokens,
            "skip_special_tokens": options.skip_special_tokens,
            "accumulate_tokens": options.accumulate_tokens,
            "exclude_input_in_output": options.exclude_input_in_output,
            "cancellation_check_period_ms": options.cancellation_check_period_ms,
            "stats_check_period_ms": options.stats_check_period_ms,
        }
        if model == _GENERATOR:
            known["gpt_model_path"] = f"{self._engine_dir.as_posix()}/engine"
        upstream = parameter_texts(model, known, self._given)
        return {**upstream, **{key: value for key, value in own.items() if key not in upstream}}


def _windows(manifest: Manifest) -> dict[str, Any]:
    """The attention windows of the model's layers, which a compiled engine does not have in itself.

    Unless told, TensorRT-LLM lets every layer see the whole sequence: beyond the window the answers would be
    those of another model. Blocks of equal prompts are not reused where layers differ. Sources:
    all_models/inflight_batcher_llm of 1.2, max_attention_window_size ("default attends to all tokens");
    NVIDIA/TensorRT-LLM, issue 2912 (garbage with reuse) and pull request 5722 ("does not support reuse yet").
    """
    windows = manifest.model.repeated_windows(longest=manifest.limits.max_seq_len)
    if not windows:
        return {}
    return {
        "max_attention_window_size": windows,
        **({"enable_kv_cache_reuse": False} if len(set(windows)) > 1 else {}),
    }


def _write_generator(folder: Path, values: _TensorrtValues) -> None:
    """Write tensorrt_llm: a config.pbtxt alone, since the backend is TensorRT-LLM's own."""
    environment = environment_of(TEMPLATES / "tensorrt")
    environment.loader = ChoiceLoader(
        [FileSystemLoader(TEMPLATES / "tensorrt"), FileSystemLoader(TEMPLATES / "reference")]
    )
    (folder / "1").mkdir(parents=True)
    # Triton wants the version folder; archives drop empty folders.
    (folder / "1" / ".keep").touch()
    template = environment.get_template(f"{_GENERATOR}/config.pbtxt.j2")
    (folder / "config.pbtxt").write_text(template.render(values.context(_GENERATOR)), encoding="utf-8")


def _refuse(engine_dir: Path, manifest: Manifest, *, stand_in: bool) -> None:
    if manifest.runtime != "tensorrt":
        raise UsageError(f"{engine_dir}: is an engine of runtime {manifest.runtime}; expected tensorrt")
    ranks = [f"engine/rank{rank}.engine" for rank in range(manifest.mapping.world_size)]
    needed = ["engine.json", "tokenizer/tokenizer.json"]
    needed += ["checkpoint/config.json"] if stand_in else ["engine/config.json", *ranks]
    problems = [f"{name}: missing" for name in needed if not (engine_dir / name).is_file()]
    if problems:
        raise InputRefused.listing(f"{engine_dir}: is not a complete engine; build it again:", problems)
