"""Engines that cannot serve one model together are refused before a file is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.records import manifest_of
from tpforge.errors import InputRefused
from tpforge.manifest import FileRecord, Limits, LlmApi, Manifest, SourceRecord
from tpforge.shards.mapping import Mapping
from triton_repo.trtllm_serve.disaggregated import Disaggregated, Group, disaggregated_files


def engine(trtllm: str = "1.4.0rc1", arguments: dict[str, Any] | None = None, **fields: Any) -> Manifest:
    llm_api = LlmApi(trtllm=trtllm, arguments=arguments or {}, sm=90)
    return manifest_of(**{"runtime": "pytorch", "llm_api": llm_api, "name": "tiny", **fields})


def files(context: Manifest, generation: Manifest) -> dict[str, str]:
    groups = [Group(Path("/srv/engine"), manifest, 1) for manifest in (context, generation)]
    return disaggregated_files(Disaggregated(groups[0], groups[1], "UCX", Path("/srv/files")))


OTHER_FILES = SourceRecord(
    kind="huggingface", location="/other", files=(FileRecord(path="config.json", size=2, sha256="cd" * 32),)
)


@pytest.mark.parametrize(
    ("generation", "said"),
    [
        (engine("1.3.0rc28"), "TensorRT-LLM 1.4.0rc1 computes prompts, 1.3.0rc28 answers; use one"),
        (engine(source=OTHER_FILES), "are of different models"),
        (engine(arguments={"kv_cache_config.dtype": "fp8"}), "auto of context, fp8 of generation"),
        (engine(arguments={"enable_lora": True}), "generation: enable_lora does not go with"),
        (
            engine(limits=Limits(max_batch_size=4, max_input_len=128, max_seq_len=256)),
            "max_seq_len: 256 of generation is below 512 of context",
        ),
        (manifest_of(name="rank files"), "rank files is of runtime reference, expected pytorch"),
    ],
)
def test_engines_that_do_not_fit_are_refused(generation: Manifest, said: str) -> None:
    with pytest.raises(InputRefused) as refused:
        files(engine(), generation)
    assert said in str(refused.value)


def test_each_group_has_the_ranks_of_its_own_engine() -> None:
    wide = engine(mapping=Mapping(tp_size=4), arguments={"tensor_parallel_size": 4})
    script = files(engine(arguments={"tensor_parallel_size": 2}), wide)["start.sh"]
    assert "CUDA_VISIBLE_DEVICES=0,1 trtllm-serve" in script
    assert "CUDA_VISIBLE_DEVICES=2,3,4,5 trtllm-serve" in script
