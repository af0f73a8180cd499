"""A rendered repository of a tiny engine, with its models loaded into the stand-in for Triton."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import engines.reference
from tests.contract.fake_triton import Server, model_config
from tests.support.tiny_engine import write_tiny_engine
from tpforge.manifest import Manifest
from tpforge.repository_options import ReferenceOptions
from triton_repo.render.repository import render

RUNTIME = Path(engines.reference.__file__).parent
MODELS = ("preprocessing", "tensorrt_llm", "postprocessing", "tensorrt_llm_bls")

Engine = tuple[Path, Manifest]
Render = Callable[..., Path]


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder, manifest, _ = write_tiny_engine(tmp_path_factory.mktemp("engine"), tp_size=2)
    return folder, manifest


@pytest.fixture
def render_tiny(engine: Engine, tmp_path: Path) -> Render:
    def render_with(**options: Any) -> Path:
        chosen = ReferenceOptions(
            **{"num_threads": 1, "cancellation_check_period_ms": 5, "stats_check_period_ms": 1, **options}
        )
        folder, manifest = engine
        out = tmp_path / "repository"
        return render(folder, manifest, out=out, runtime_source=RUNTIME, options=chosen, force=True).path

    return render_with


@contextmanager
def loaded(repository: Path, *, models: tuple[str, ...] = MODELS) -> Iterator[Server]:
    """The models of a repository, imported from it as Triton's stubs would."""
    server = Server()
    before = set(sys.modules)
    sys.modules["triton_python_backend_utils"] = server.module
    path = str(repository / "tensorrt_llm" / "1")
    sys.path.insert(0, path)
    try:
        for model in models:
            text = (repository / model / "config.pbtxt").read_text(encoding="utf-8")
            server.configs[model] = model_config(text)
            server.models[model] = load(repository, model)
        yield server
    finally:
        server.finalize()
        sys.path.remove(path)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in ("serving", "reference", "triton_python_backend_utils"):
                del sys.modules[name]


def load(repository: Path, model: str) -> Any:
    """Import one model and initialize it."""
    folder = repository / model
    spec = importlib.util.spec_from_file_location(f"model_{model}", folder / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    instance = module.TritonPythonModel()
    config = model_config((folder / "config.pbtxt").read_text(encoding="utf-8"))
    instance.initialize({"model_config": json.dumps(config), "model_name": model, "model_version": "1"})
    return instance


@pytest.fixture
def server(render_tiny: Render) -> Iterator[Server]:
    with loaded(render_tiny()) as running:
        yield running
