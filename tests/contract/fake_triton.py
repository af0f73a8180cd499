"""A stand-in for Triton's Python backend: models run in this process, with numpy tensors.

It has the parts of triton_python_backend_utils that the repository's models use, and records what they
send. Inputs are held to config.pbtxt and reshaped by it, outputs are not; the real server does both.
"""

from __future__ import annotations

import json
import queue
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.support.patience import PATIENCE_S

FINAL = 1
TIMEOUT_S = PATIENCE_S


class TritonModelException(Exception):
    pass


class TritonError:
    CANCELLED = "CANCELLED"
    UNAVAILABLE = "UNAVAILABLE"

    def __init__(self, message: str, code: str | None = None) -> None:
        self._message, self._code = message, code

    def code(self) -> str | None:
        return self._code

    def message(self) -> str:
        return self._message


class Tensor:
    def __init__(self, name: str, values: npt.NDArray[Any]) -> None:
        assert isinstance(values, np.ndarray)
        self._name, self._values = name, values

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> npt.NDArray[Any]:
        return self._values


class InferenceResponse:
    def __init__(self, output_tensors: Sequence[Tensor], error: TritonError | None = None) -> None:
        self._tensors, self._error = list(output_tensors), error

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error


@dataclass(frozen=True)
class Sent:
    """One response as a client sees it."""

    tensors: dict[str, npt.NDArray[Any]]
    error: str | None
    final: bool
    empty: bool = False
    code: str | None = None


class Sender:
    """Collects what a model sends for one request; fails as Triton does when used after the end."""

    def __init__(self) -> None:
        self.sent: queue.SimpleQueue[Sent] = queue.SimpleQueue()
        self.cancelled = False
        self.ended = False

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        assert not self.ended, "sent after the final response"
        self.ended = flags == FINAL
        if response is None:
            self.sent.put(Sent({}, None, final=self.ended, empty=True))
            return
        tensors = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
        error = response.error()
        message, code = (None, None) if error is None else (error.message(), error.code())
        self.sent.put(Sent(tensors, message, final=self.ended, code=code))

    def is_cancelled(self) -> bool:
        assert not self.ended, "Triton would die of a segmentation fault"
        return self.cancelled

    def until_final(self) -> Iterator[Sent]:
        """The responses as they come, the final one included."""
        while True:
            sent = self.sent.get(timeout=TIMEOUT_S)
            yield sent
            if sent.final:
                return


@dataclass
class Request:
    """A request as a model gets it."""

    tensors: dict[str, npt.NDArray[Any]]
    id: str = ""
    timeout_us: int = 0
    sender: Sender = field(default_factory=Sender)

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, values) for name, values in self.tensors.items()]

    def request_id(self) -> str:
        return self.id

    def is_cancelled(self) -> bool:
        return self.sender.is_cancelled()

    def timeout(self) -> int:
        return self.timeout_us

    def get_response_sender(self) -> Sender:
        return self.sender


class Gauge:
    def __init__(self) -> None:
        self.value = 0.0

    def set(self, value: float) -> None:
        self.value = value

    def increment(self, value: float) -> None:
        assert value >= 0, "a counter never falls"
        self.value += value


class MetricFamily:
    GAUGE, COUNTER = "gauge", "counter"
    families: list[MetricFamily] = []  # noqa: RUF012 (one registry, as in the server)

    def __init__(self, name: str, description: str, kind: str) -> None:
        self.name, self.kind = name, kind
        self.gauges: dict[tuple[tuple[str, str], ...], Gauge] = {}
        MetricFamily.families.append(self)

    def Metric(self, labels: dict[str, str]) -> Gauge:  # noqa: N802 (Triton's name)
        return self.gauges.setdefault(tuple(sorted(labels.items())), Gauge())


class Logger:
    errors: list[str] = []  # noqa: RUF012

    @staticmethod
    def log_error(message: str) -> None:
        Logger.errors.append(message)


class Server:
    """The loaded models, and the module that they import as triton_python_backend_utils."""

    def __init__(self) -> None:
        self.models: dict[str, Any] = {}
        self.configs: dict[str, dict[str, Any]] = {}
        self.module = types.ModuleType("triton_python_backend_utils")
        server = self

        class InferenceRequest:
            def __init__(
                self,
                model_name: str,
                inputs: list[Tensor],
                requested_output_names: list[str],
                request_id: str = "",
            ) -> None:
                tensors = {tensor.name(): tensor.as_numpy() for tensor in inputs}
                self._model, self._request = model_name, Request(tensors, request_id)
                self._wanted = requested_output_names

            def exec(self, decoupled: bool = False) -> Any:
                responses = server.responses(self._model, self._request, wanted=self._wanted)
                return responses if decoupled else next(responses)

        members = {
            "Tensor": Tensor,
            "InferenceResponse": InferenceResponse,
            "InferenceRequest": InferenceRequest,
            "TritonError": TritonError,
            "TritonModelException": TritonModelException,
            "TRITONSERVER_RESPONSE_COMPLETE_FINAL": FINAL,
            "MetricFamily": MetricFamily,
            "Logger": Logger,
            "using_decoupled_model_transaction_policy": _is_decoupled,
        }
        for name, value in members.items():
            setattr(self.module, name, value)

    def responses(
        self, model: str, request: Request, *, wanted: Sequence[str]
    ) -> Iterator[InferenceResponse]:
        """Run a request on a model; its responses as a BLS caller sees them, with the outputs it wants."""
        for sent in self.run(model, request):
            if sent.empty:
                continue
            error = None if sent.error is None else TritonError(sent.error, sent.code)
            outputs = [Tensor(name, values) for name, values in sent.tensors.items() if name in wanted]
            yield InferenceResponse(outputs, error)

    def run(self, model: str, request: Request) -> Iterator[Sent]:
        """Run a request on a model; its responses as a client sees them."""
        self.start(model, request)
        return request.sender.until_final()

    def start(self, model: str, request: Request) -> None:
        """Give a request to a model, and do not wait."""
        tensors = {name: self._reshaped(model, name, values) for name, values in request.tensors.items()}
        responses = self.models[model].execute([replace(request, tensors=tensors)])
        for response in responses or []:
            request.sender.send(response, flags=FINAL)

    def _reshaped(self, model: str, name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An input as the model sees it: with `reshape` of config.pbtxt in place of `dims`."""
        config = next(one for one in self.configs[model]["input"] if one["name"] == name)
        dims = [int(size) for size in config["dims"]]
        found = list(values.shape[1:])
        assert len(found) == len(dims) and all(
            want in (-1, have) for want, have in zip(dims, found, strict=True)
        ), f"{model}: unexpected shape for input {name}: expected [-1, {dims}], got {list(values.shape)}"
        if "reshape" not in config:
            return values
        return values.reshape(values.shape[0], *map(int, config["reshape"].get("shape", [])))

    def finalize(self) -> None:
        """Unload the models."""
        for model in self.models.values():
            if hasattr(model, "finalize"):
                model.finalize()


def model_config(text: str) -> dict[str, Any]:
    """A config.pbtxt as the JSON that Triton gives a model: proto field names, defaults left out."""
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    content: dict[str, Any] = json.loads(json_format.MessageToJson(config, preserving_proto_field_name=True))
    return content


def _is_decoupled(config: dict[str, Any]) -> bool:
    return bool(config.get("model_transaction_policy", {}).get("decoupled", False))
