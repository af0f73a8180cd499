"""A model repository for the server's own tests: `ensemble` is one model that repeats the prompt's words.

It has the contract's tensor names, streams a word every 20 ms, and loads in a fraction of a second.
"""

from __future__ import annotations

from pathlib import Path

WORD_S = 0.02

_CONFIG = """name: "MODEL"
backend: "python"
max_batch_size: 8
model_transaction_policy { decoupled: true }
input [
  { name: "text_input" data_type: TYPE_STRING dims: [1] },
  { name: "max_tokens" data_type: TYPE_INT32 dims: [1] },
  { name: "stream" data_type: TYPE_BOOL dims: [1] optional: true },
  { name: "exclude_input_in_output" data_type: TYPE_BOOL dims: [1] optional: true }
]
output [ { name: "text_output" data_type: TYPE_STRING dims: [-1] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""

_MODEL = """
import os, threading, time
import numpy
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        INITIALIZE

    def execute(self, requests):
        for request in requests:
            threading.Thread(target=self.answer, args=(request,), daemon=True).start()

    def answer(self, request):
        sender = request.get_response_sender()
        value = lambda name: triton.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)[0]
        prompt_words = value("text_input").decode(errors="replace").split() or ["silence"]
        words = [f" {prompt_words[index % len(prompt_words)]}" for index in range(int(value("max_tokens")))]
        stream = triton.get_input_tensor_by_name(request, "stream")
        if stream is None or not stream.as_numpy().reshape(-1)[0]:
            words = ["".join(words)]
        for index, word in enumerate(words):
            if len(words) > 1:
                time.sleep(WORD_S)
            text = triton.Tensor("text_output", numpy.array([[word.encode()]], dtype=object))
            is_last = index == len(words) - 1
            flags = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL if is_last else 0
            sender.send(triton.InferenceResponse([text]), flags=flags)
"""


def write_echo(repository: Path, *, initialize: str = "pass", config: str = _CONFIG) -> Path:
    """Write the repository; `initialize` is the statement that the model runs first."""
    version = repository / "ensemble" / "1"
    version.mkdir(parents=True)
    (repository / "ensemble" / "config.pbtxt").write_text(config.replace("MODEL", "ensemble"))
    source = _MODEL.replace("INITIALIZE", initialize).replace("WORD_S", str(WORD_S))
    (version / "model.py").write_text(source)
    return repository


def with_placeholder() -> str:
    """A config in which the renderer left a placeholder."""
    return _CONFIG.replace("count: 1", "count: ${instances}")
