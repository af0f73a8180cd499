"""What a worker of Dynamo's front is told, as JSON: its Triton server, the model and its limits.

It is read in Dynamo's own environment, so it knows the standard library only. It connects to nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class TlsFiles:
    """How the worker proves the Triton server, and itself where that one wants it; paths of PEM files."""

    root_certificates: str | None = None
    private_key: str | None = None
    certificate_chain: str | None = None
    server_name: str | None = None


@dataclass(frozen=True)
class WorkerSettings:
    """One worker: `url` is HOST:PORT of Triton's gRPC, `card` the folder of the tokenizer and config.json.

    `end_ids` end an answer; the C++ backend takes the first as such, the others as stop words. `decoupled`
    is whether the server streams, `endpoint_types` what the front offers: a tokenizer without a chat template
    has completions only. The parsers are Dynamo's, by name.
    """

    url: str
    model: str
    card: str
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    vocab_size: int
    end_ids: tuple[int, ...]
    pad_id: int | None
    decoupled: bool
    endpoint_types: str = "chat,completions"
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None
    tls: TlsFiles | None = None

    def to_json(self) -> str:
        """The settings as `read_settings` takes them."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def parse_settings(text: str) -> WorkerSettings:
    """The settings of a JSON text that `to_json` made."""
    values = json.loads(text)
    tls = values.pop("tls")
    ends = tuple(values.pop("end_ids"))
    return WorkerSettings(**values, end_ids=ends, tls=None if tls is None else TlsFiles(**tls))


def read_settings(path: Path) -> WorkerSettings:
    """The settings in a file."""
    return parse_settings(path.read_text(encoding="utf-8"))
