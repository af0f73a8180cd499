"""The command of trtllm-serve for an engine of runtime pytorch; all settings are in its llm.yaml.

It starts nothing. Typed options win over the file since 1.3 and lost to it before, so none that the file can
hold is given. Sources: NVIDIA/TensorRT-LLM, tests/unittest/api_stability/references/trtllm_serve_cli.yaml
@029e223d527d (late 1.3.0rc); docs/source/commands/trtllm-serve/trtllm-serve.rst @0434755f93ec.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tpforge.trtllm.versions import version_key
from triton_repo.serve.mpirun import LaunchCommand

PROGRAM = "trtllm-serve"
MODEL, CONFIG = "model", "llm.yaml"
"""The checkpoint and the settings in an engine folder of runtime pytorch."""
_NAMED_SINCE = (1, 3)
"""From when on --served_model_name and --grpc are known; before, the name is that of the model's folder."""
QUIET = {"TRTLLM_NO_USAGE_STATS": "1"}
"""trtllm-serve and Dynamo's workers, which run the LLM API, report its use unless they are told not to."""


@dataclass(frozen=True)
class TrtllmServe:
    """What is served and where: `engine` is the folder, `address` what the server binds.

    `config` is another file than the engine's llm.yaml. With `grpc` it speaks its own gRPC, by token ids, and
    no HTTP. `backend` is the LLM API's that knows the model.
    """

    engine: Path
    name: str
    version: str
    port: int
    address: str = "127.0.0.1"
    config: Path | None = None
    grpc: bool = False
    backend: str = "pytorch"

    @property
    def model_name(self) -> str:
        """The name in the API."""
        return self.name if _takes_name(self.version) else MODEL


def trtllm_serve_command(asked: TrtllmServe) -> LaunchCommand:
    """The words; on one host trtllm-serve starts the process of every rank itself."""
    words = [PROGRAM, "serve", str(asked.engine / MODEL)]
    words += ["--host", asked.address, "--port", str(asked.port)]
    # It is asked for by its option (docs/source/features/auto_deploy/auto-deploy.md), and is in the file too.
    words += ["--backend", asked.backend] if asked.backend != "pytorch" else []
    # Both releases know this spelling; --config is the same option, and newer.
    words += ["--extra_llm_api_options", str(asked.config or asked.engine / CONFIG)]
    words += ["--served_model_name", asked.name] if _takes_name(asked.version) else []
    words += ["--grpc"] if asked.grpc else []
    return LaunchCommand(tuple(words), dict(QUIET))


def has_grpc(version: str) -> bool:
    """Whether the release has --grpc, a prototype there.

    Source: as above; the option is not in the tables of 1.2.
    """
    return version_key(version)[:2] >= _NAMED_SINCE


def _takes_name(version: str) -> bool:
    return version_key(version)[:2] >= _NAMED_SINCE
