"""Real Triton loads the repositories of TensorRT-LLM's runtimes, with stand-ins for what needs a GPU.

tensorrt: tensorrt_llm is served by the reference runtime. pytorch: the LLM API is replaced by a stand-in of
its interface. TensorRT-LLM itself is not run.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from engines import reference
from tests.e2e.conftest import Engine, quiet
from tests.support.ports import free_ports
from tpforge.manifest import EngineBuild, LlmApi
from tpforge.repository_options import PytorchOptions, TensorrtOptions
from triton_repo.client.client import Client
from triton_repo.render.front import render_front
from triton_repo.render.tensorrt import render_tensorrt
from triton_repo.serve.local import ServeOptions, serve, stop

pytestmark = [pytest.mark.e2e, pytest.mark.apart]

RUNTIME = Path(reference.__file__).parent
STAND_IN = Path(__file__).parent / "standin_tensorrt_llm.py"


@contextmanager
def served(repository: Path, folder: Path) -> Iterator[str]:
    where = ServeOptions(state_dir=folder / "server", ports=free_ports(), detach=True)
    try:
        yield serve(repository, options=where, progress=quiet).grpc_url
    finally:
        stop(where.state_dir)


def check_answers(url: str, engine: Engine) -> None:
    """Whole and streamed answers of both text models are the golden ones, as far as those are decisive."""
    golden = next(answer for answer in engine.manifest.golden if answer.num_decisive == len(answer.token_ids))
    with Client(url) as client:
        for model in ("ensemble", "tensorrt_llm_bls"):
            for stream in (False, True):
                answer = client.generate(
                    golden.prompt, max_tokens=len(golden.token_ids), stream=stream, model=model, end_id=-1
                )
                assert answer.text == golden.text


def test_the_repository_of_compiled_engines_answers_with_the_reference_runtime_in_their_place(
    tiny_engine: Engine, tmp_path: Path
) -> None:
    build = EngineBuild(trtllm="1.2.1", tensorrt="10.14.1.48", cuda="13.1.0", arguments={}, command=("x",))
    manifest = tiny_engine.manifest.model_copy(update={"runtime": "tensorrt", "engine_build": build})
    options = TensorrtOptions(stand_in=True, num_threads=1)
    rendered = render_tensorrt(
        tiny_engine.folder, manifest, out=tmp_path / "repository", runtime_source=RUNTIME, options=options
    )
    with served(rendered.path, tmp_path) as url:
        check_answers(url, tiny_engine)


def test_the_front_over_the_llm_api_answers_with_a_stand_in_for_the_llm_api(
    tiny_engine: Engine, tmp_path: Path
) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(tiny_engine.folder, engine)
    (engine / "model").mkdir()
    (engine / "model" / "config.json").write_text("{}")
    (engine / "llm.yaml").write_text("backend: pytorch\nmax_batch_size: 8\n")
    api = LlmApi(trtllm="1.2.1", arguments={})
    manifest = tiny_engine.manifest.model_copy(update={"runtime": "pytorch", "llm_api": api})
    text = (engine / "llm.yaml").read_text()
    out = tmp_path / "repository"
    render_front(engine, manifest, out=out, options=PytorchOptions(), llm_yaml=text)
    version = out / "tensorrt_llm" / "1"
    shutil.copyfile(STAND_IN, version / "tensorrt_llm.py")
    shutil.copytree(RUNTIME, version / "reference", ignore=shutil.ignore_patterns("__pycache__"))
    with served(out, tmp_path) as url:
        check_answers(url, tiny_engine)
