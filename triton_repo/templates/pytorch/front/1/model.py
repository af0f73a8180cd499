"""Prompt tokens to output tokens: TensorRT-LLM's LLM API behind upstream's tensorrt_llm tensors.

Clients of inflight_batcher_llm see no difference but what the LLM API cannot give, which is refused by name.
"""

from __future__ import annotations

from pathlib import Path

import triton_python_backend_utils as pb_utils
import yaml
from llm.errors import EngineError, RequestError
from llm.llm_stats import LlmStats
from llm.runtime import LlmRuntime
from serving.generating import GeneratingModel, Runtime
from serving.parameters import Parameters
from serving.tokenizer import Tokenizer


class TritonPythonModel(GeneratingModel):  # type: ignore[misc]
    """The model's name for Triton."""

    request_error = RequestError
    engine_error = EngineError
    offers_perf_metrics = False

    def open_runtime(self, parameters: Parameters, *, max_batch_size: int) -> Runtime:
        config = yaml.safe_load((Path(__file__).parent / "model.yaml").read_text(encoding="utf-8"))
        config.pop("triton_config")
        tokenizer = Tokenizer(parameters.path("tokenizer_dir"))
        version = Path(__file__).parent
        return LlmRuntime(
            config,
            stats=LlmStats(model=version.parent.name, version=version.name),
            log_error=pb_utils.Logger.log_error,
            vocab_size=parameters.integer("vocab_size"),
            end_ids=parameters.integers("end_ids"),
            decode=tokenizer.decode,
        )
