"""engine.json: what an engine is made of, how to check it, and what was proven of it.

It holds no timestamp, so that the same input gives the same bytes. `engines.store` reads and writes it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from tpforge.dtypes import DType
from tpforge.model import ModelSpec
from tpforge.outputs.file_record import FileRecord as FileRecord
from tpforge.quantization import Quantization
from tpforge.records import Record
from tpforge.runtime import Runtime as Runtime
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import Padding


class SourceRecord(Record):
    """Where the weights came from.

    `location` is the directory, file or hub id as the user gave it.
    """

    kind: Literal["huggingface", "hub", "gguf"]
    location: str
    revision: str | None = None
    license: str | None = None
    files: tuple[FileRecord, ...]


class Limits(Record):
    """What a server of this engine accepts: requests in flight, prompt tokens, prompt + output tokens."""

    max_batch_size: int = 8
    max_input_len: int = 1024
    max_seq_len: int = 2048


class GoldenAnswer(Record):
    """A prompt with the greedy tokens that transformers gave for it in float32.

    `margins` are by how much each token's logit was above the next; `tpforge.golden` says which of them
    rounding in a compute dtype cannot change. The first `num_decisive` tokens are such in float32.
    """

    name: str
    prompt: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    num_decisive: int
    margins: tuple[float, ...] = ()


class Rounding(Record):
    """How far logits are from transformers' in float32 when the runtime computes in `compute_dtype`.

    `max_margin_error` is the largest error of the difference between a greedy token's logit and a rival's.
    """

    compute_dtype: DType
    max_abs_logit_error: float
    max_margin_error: float


class Parity(Record):
    """What `verify` measured against the source and against transformers in float32."""

    passed: bool
    num_tensors: int
    num_unequal_tensors: int
    num_prompts: int
    num_positions: int
    max_abs_logit_error: float
    mean_kl_divergence: float
    top1_agreement: float
    num_greedy_tokens: int
    num_greedy_equal: int
    logit_tolerance: float
    rounding: tuple[Rounding, ...] = ()
    versions: dict[str, str]
    problems: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, values: Any) -> Any:
        """Engines that were proven before `rounding` was measured say less, of one dtype."""
        if not isinstance(values, dict):
            return values
        earlier = ("served_dtype", "served_max_abs_logit_error")
        return {key: value for key, value in values.items() if key not in earlier}


class WeightError(Record):
    """How far the values of a quantized tensor are from the source's.

    `relative` is the norm of the difference over the norm of the source, over the ranks of a stage together.
    """

    name: str
    relative: float
    max_abs: float


class Quality(Record):
    """What quantization cost, measured against the same model before it, both computed in float32.

    Perplexity is over `num_text_tokens` of a text with this SHA-256; `perplexity_drop` is its increase over
    the baseline's, as a fraction: 0.01 is one per cent worse. `max_drop` is the limit that was asked for.
    """

    baseline: str
    num_positions: int
    mean_kl_divergence: float
    top1_agreement: float
    num_greedy_tokens: int
    num_greedy_equal: int
    text_sha256: str
    num_text_tokens: int
    baseline_perplexity: float
    perplexity: float
    perplexity_drop: float
    max_drop: float | None = None
    weight_errors: tuple[WeightError, ...] = ()
    not_emulated: tuple[str, ...] = ()


class EngineBuild(Record):
    """How trtllm-build made the engines of runtime tensorrt, and on what.

    `sm`, `gpu`, `driver` and `topology` are those of the host that built; None or empty where it could not
    be asked. `log` has the numbers that the build's log gives: bytes, and seconds.
    """

    trtllm: str
    tensorrt: str
    cuda: str
    arguments: dict[str, Any]
    command: tuple[str, ...]
    sm: int | None = None
    gpu: str | None = None
    driver: str | None = None
    topology: str = ""
    log: dict[str, int] = Field(default_factory=dict)
    warnings: tuple[str, ...] = ()


class LlmApi(Record):
    """What the LLM API of runtime pytorch is given: llm.yaml as a record; `sm` is that of the target GPUs.

    `respelled` are the config files of the folder's copy that say what the source says in the spelling of the
    release's transformers. `checked_by` is the table that the arguments were compared with, `unchecked` are
    those that were passed on past it. `described` is the user's file of sizes, where there was one.
    """

    trtllm: str
    arguments: dict[str, Any]
    quant_algo: str | None = None
    sm: int | None = None
    respelled: tuple[str, ...] = ()
    unchecked: dict[str, Any] = Field(default_factory=dict)
    checked_by: str = ""
    described: dict[str, Any] = Field(default_factory=dict)


class Manifest(Record):
    """The content of engine.json.

    `code` is the key of the code of ours that decided the engine (`tpforge.outputs.deciding_code`); engines
    that were built before it was kept have none. `runtime_because` says why the runtime is what it is, where
    `auto` chose it.
    """

    schema_version: Literal[1] = 1
    name: str
    tpforge_version: str
    code: str | None = None
    runtime: Runtime
    runtime_because: str | None = None
    source: SourceRecord
    model: ModelSpec
    mapping: Mapping
    padding: Padding
    parallel_embedding_dim: int | None = None
    dtype: DType
    quantization: Quantization | None = None
    limits: Limits
    files: tuple[FileRecord, ...]
    command: tuple[str, ...]
    engine_build: EngineBuild | None = None
    llm_api: LlmApi | None = None
    dropped_tensors: dict[str, str] = Field(default_factory=dict)
    parity: Parity | None = None
    quality: Quality | None = None
    golden: tuple[GoldenAnswer, ...] = ()

    @property
    def num_ranks(self) -> int:
        """Ranks of one instance, each on a GPU of its own; the LLM API multiplies context parallelism in."""
        arguments = self.llm_api.arguments if self.llm_api else {}
        return self.mapping.world_size * int(arguments.get("context_parallel_size") or 1)

    @property
    def llm_backend(self) -> str:
        """Which backend of the LLM API runs it, of runtime pytorch."""
        return str(self.llm_api.arguments.get("backend", "pytorch")) if self.llm_api else "pytorch"


def json_schema() -> dict[str, Any]:
    """The JSON schema of engine.json, as published in docs/engine.schema.json."""
    return Manifest.model_json_schema()
