"""The model repository of TensorRT-LLM's LLM API: one model, text to text, with upstream's `llmapi` tensors.

The model's code is ours and imports tensorrt_llm in the container. It starts no server.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from tpforge.errors import InputRefused, UsageError
from tpforge.manifest import Manifest
from tpforge.outputs.atomic import atomic_folder
from tpforge.outputs.written import written_names
from tpforge.repository_options import PytorchOptions
from triton_repo.render.check import check_llm_repository
from triton_repo.render.contract import LLM_MODEL, llm_tensors
from triton_repo.render.repository import TEMPLATES, RenderedRepository, environment_of, text_of

CONFIG = "model.yaml"
_FILES = (
    f"{LLM_MODEL}/1/model.py",
    f"{LLM_MODEL}/1/llm_requests.py",
    f"{LLM_MODEL}/1/llm_metrics.py",
    "front/1/llm/llm_stats.py",
)


def render_llmapi(
    engine_dir: Path,
    manifest: Manifest,
    *,
    out: Path,
    options: PytorchOptions,
    llm_yaml: str,
    force: bool = False,
) -> RenderedRepository:
    """Write the repository of an engine of runtime pytorch to `out`, whole or not at all.

    `llm_yaml` is the text of the engine's llm.yaml, whose values go into model.yaml as they are.

    Raises:
        InputRefused: the engine is not complete, or the rendered repository is not right.
        UsageError: the engine is of another runtime.
    """
    refuse_engine(engine_dir, manifest)
    folder_of_model = engine_dir.resolve()
    with atomic_folder(out, force=force) as folder:
        version = folder / LLM_MODEL / "1"
        version.mkdir(parents=True)
        for path in _FILES:
            shutil.copyfile(TEMPLATES / "pytorch" / path, version / Path(path).name)
        (folder / LLM_MODEL / "config.pbtxt").write_text(_config(options), encoding="utf-8")
        (version / CONFIG).write_text(model_yaml(folder_of_model, llm_yaml, options), encoding="utf-8")
        if problems := check_llm_repository(folder):
            raise InputRefused.listing(f"{out}: the rendered repository is not right:", problems)
    files = written_names(out)
    return RenderedRepository(path=out, models=(LLM_MODEL,), files=files)


def _config(options: PytorchOptions) -> str:
    """config.pbtxt; decoupled stands here, since Triton ignores model.yaml's without auto-completion."""
    from jinja2 import ChoiceLoader, FileSystemLoader

    environment = environment_of(TEMPLATES / "pytorch")
    environment.loader = ChoiceLoader(
        [FileSystemLoader(TEMPLATES / "pytorch"), FileSystemLoader(TEMPLATES / "reference")]
    )
    values = {"contract": llm_tensors(), "decoupled": text_of(options.decoupled)}
    return environment.get_template(f"{LLM_MODEL}/config.pbtxt.j2").render(values)


def model_yaml(engine_dir: Path, llm_yaml: str, options: PytorchOptions) -> str:
    """model.yaml: the model, the LLM API's arguments, and what Triton is told.

    Raises:
        InputRefused: `llm_yaml` is no table.
    """
    from tpforge.yaml_text import leading_comment, parse_table, to_yaml

    values = {
        "model": f"{engine_dir.as_posix()}/model",
        "tokenizer": f"{engine_dir.as_posix()}/tokenizer",
        # Without it nothing tells how full the KV cache is, and how many requests wait.
        "enable_iter_perf_stats": True,
        **parse_table(llm_yaml, where=engine_dir / "llm.yaml"),
        "triton_config": {
            "max_batch_size": 0,
            "decoupled": options.decoupled,
            "cancellation_check_period_ms": options.cancellation_check_period_ms,
            # Upstream's text_output is what was generated; a request can ask for the prompt before it.
            "exclude_input_from_output": True,
        },
    }
    return to_yaml(values, comment=leading_comment(llm_yaml))


def refuse_engine(engine_dir: Path, manifest: Manifest) -> None:
    """Refuse an engine that is not of runtime pytorch, or not complete.

    Raises:
        InputRefused: a file of the engine is missing.
        UsageError: the engine is of another runtime.
    """
    if manifest.runtime != "pytorch":
        raise UsageError(f"{engine_dir}: is an engine of runtime {manifest.runtime}; expected pytorch")
    needed = ("engine.json", "llm.yaml", "model/config.json", "tokenizer/tokenizer.json")
    problems = [f"{name}: missing" for name in needed if not (engine_dir / name).is_file()]
    if problems:
        raise InputRefused.listing(f"{engine_dir}: is not a complete engine; build it again:", problems)
