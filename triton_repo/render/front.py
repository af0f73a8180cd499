"""The LLM API behind the tensors of inflight_batcher_llm, so that its clients survive the migration.

preprocessing, postprocessing, ensemble and tensorrt_llm_bls are those of the reference runtime's repository,
and so is the code of tensorrt_llm, but for what generates: TensorRT-LLM's LLM API. It starts no server.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tpforge.errors import InputRefused
from tpforge.manifest import Manifest
from tpforge.outputs.atomic import atomic_folder
from tpforge.outputs.written import written_names
from tpforge.repository_options import PytorchOptions
from triton_repo.render.check import FRONT_PARAMETERS, check_repository
from triton_repo.render.contract import MODELS
from triton_repo.render.llmapi import CONFIG, model_yaml, refuse_engine
from triton_repo.render.repository import (
    TEMPLATES,
    RenderedRepository,
    Values,
    copy_package,
    environment_of,
    text_of,
    write_model,
)

_GENERATOR = "tensorrt_llm"
_PACKAGE = "llm"


def render_front(
    engine_dir: Path,
    manifest: Manifest,
    *,
    out: Path,
    options: PytorchOptions,
    llm_yaml: str,
    force: bool = False,
) -> RenderedRepository:
    """Write the repository of an engine of runtime pytorch to `out`, whole or not at all.

    Raises:
        InputRefused: the engine is not complete, or the rendered repository is not right.
        UsageError: the engine is of another runtime.
    """
    refuse_engine(engine_dir, manifest)
    values = _FrontValues(engine_dir.resolve(), manifest, options)
    with atomic_folder(out, force=force) as folder:
        environment = environment_of(TEMPLATES / "reference")
        for model in MODELS:
            write_model(folder / model, environment, values)
        version = folder / _GENERATOR / "1"
        source = TEMPLATES / "pytorch" / "front" / "1"
        shutil.copyfile(source / "model.py", version / "model.py")
        copy_package(source / _PACKAGE, version / _PACKAGE)
        text = model_yaml(engine_dir.resolve(), llm_yaml, options)
        (version / CONFIG).write_text(text, encoding="utf-8")
        if problems := check_repository(folder, runtime="front"):
            raise InputRefused.listing(f"{out}: the rendered repository is not right:", problems)
    files = written_names(out)
    return RenderedRepository(path=out, models=MODELS, files=files)


class _FrontValues(Values):
    """What the templates print: the reference repository's values, but for tensorrt_llm's parameters."""

    def parameters(self, model: str) -> dict[str, str]:
        """The parameters of a model."""
        if model != _GENERATOR:
            return super().parameters(model)
        tokens = self._manifest.model.special_tokens
        known: dict[str, Any] = {
            "tokenizer_dir": f"{self._engine_dir.as_posix()}/tokenizer",
            "vocab_size": self._manifest.model.vocab_size,
            "end_ids": ",".join(map(str, tokens.end_ids)),
        }
        return {
            key: text_of(known[key] if key in known else getattr(self._options, key))
            for key in FRONT_PARAMETERS
        }
