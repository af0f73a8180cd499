"""Load on a real Triton with a tiny engine: every model that can be asked, and what is recorded of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.flows.bench import bench
from scripts.flows.benching.plan import BenchOptions
from tests.e2e.conftest import Engine, Serving
from tpforge.measure.runs.run import read_samples
from triton_repo.client.client import Client

pytestmark = pytest.mark.e2e


def quiet(_message: str) -> None:
    """Notes that nobody reads."""


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls", "tensorrt_llm"])
def test_every_model_is_measured_with_exact_lengths(
    lockstep: Serving, tiny_engine: Engine, tmp_path: Path, model: str
) -> None:
    found = bench(
        lockstep.server.grpc_url,
        BenchOptions(
            model=model,
            engine=str(tiny_engine.folder),
            metrics_url=lockstep.server.metrics_url,
            concurrency=(2,),
            isl=24,
            osl=6,
            num_requests=6,
            warmup_s=0.2,
            num_repeats=2,
            out=tmp_path / "run",
        ),
        command=("test",),
        note=quiet,
    )
    assert found is not None
    run, samples = found.run, read_samples(tmp_path / "run")
    measured = [sample for sample in samples if sample.phase == "measured"]
    assert [sample.error for sample in samples if sample.error] == []
    assert len(measured) == 12
    # A tiny tokenizer may not give back the very tokens of a text: the nearest length is taken.
    assert {sample.input_tokens for sample in measured} <= {23, 24, 25}
    level = run.levels[0]
    assert run.workload.token_source == "server"
    if model == "tensorrt_llm":
        assert {sample.output_tokens for sample in measured} == {6}
        # A response holds several tokens where one alone is not whole UTF-8.
        assert {sum(sample.tokens_per_response) for sample in measured} == {6}
        assert {sample.finish_reason for sample in measured} == {"length"}
    assert run.engine["tp"].value == 2
    hashes = {file.path: file.sha256 for file in tiny_engine.manifest.source.files}
    assert run.engine["weights_sha256"].value == hashes["model.safetensors"]
    settings = run.environment["batch_settings"].value
    assert isinstance(settings, dict) and settings["max_batch_size"] == 8
    assert run.environment["server_version"].value == "2.51.0"
    counted = f'nv_inference_request_success{{model="{model}",version="1"}}'
    assert level.telemetry.server[counted].last >= 12
    assert level.telemetry.unavailable.keys() <= {"gpu"}


def test_recorded_answers_are_those_that_the_client_gets(lockstep: Serving, tmp_path: Path) -> None:
    found = bench(
        lockstep.server.grpc_url,
        BenchOptions(
            prompts="easy",
            concurrency=(1,),
            num_requests=8,
            num_repeats=1,
            max_tokens=5,
            warmup_s=0,
            out=tmp_path / "run",
        ),
        command=("test",),
        note=quiet,
    )
    assert found is not None
    from triton_repo.load.prompt_sets import load_prompts

    texts = {prompt.id: prompt.text for prompt in load_prompts("easy")}
    with Client(lockstep.server.grpc_url) as client:
        for sample in read_samples(tmp_path / "run"):
            alone = client.generate(texts[sample.prompt_id], max_tokens=5, stream=True).text
            assert sample.output_text == alone
