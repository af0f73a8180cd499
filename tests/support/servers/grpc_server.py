"""A gRPC server in this process that says what a test needs, and a slow road to a server.

It knows no model and no batching.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import serialize_byte_tensor

Answers = Callable[[Any, Any], Iterator[Any]]


def text_response(text: str | bytes, *, final: bool = False, batch_index: int | None = None) -> Any:
    message = service_pb2.ModelStreamInferResponse()
    answer = message.infer_response
    answer.outputs.add(name="text_output", datatype="BYTES", shape=[1])
    encoded = text.encode() if isinstance(text, str) else text
    answer.raw_output_contents.append(serialize_byte_tensor(np.array([encoded], dtype=object)).item())
    if batch_index is not None:
        answer.outputs.add(name="batch_index", datatype="INT32", shape=[1, 1])
        answer.raw_output_contents.append(np.int32(batch_index).tobytes())
    answer.parameters["triton_final_response"].bool_param = final
    return message


def empty_final() -> Any:
    message = service_pb2.ModelStreamInferResponse()
    message.infer_response.parameters["triton_final_response"].bool_param = True
    return message


def refusal(text: str) -> Any:
    return service_pb2.ModelStreamInferResponse(error_message=text)


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers every stream by `answers(request, context)`; keeps the requests and their metadata."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []

    def ServerLive(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.metadata.append(dict(context.invocation_metadata()))
        return service_pb2.ServerLiveResponse(live=True)

    def ModelStreamInfer(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        for request in request_iterator:
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            yield from self.answers(request, context)


@contextmanager
def serving(answers: Answers, *, credentials: Any = None) -> Iterator[tuple[Servicer, str]]:
    servicer = Servicer(answers)
    server = grpc.server(ThreadPoolExecutor(8))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    if credentials is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        port = server.add_secure_port("localhost:0", credentials)
    server.start()
    try:
        yield servicer, f"localhost:{port}"
    finally:
        server.stop(0).wait()


@contextmanager
def far_away(url: str, *, delay_s: float) -> Iterator[str]:
    """An address that leads to a server, and takes a while to pass on the first bytes of a connection."""
    host, _, port = url.rpartition(":")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def pump(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data)
                sink.shutdown(socket.SHUT_WR)

        def join(near: socket.socket) -> None:
            with near, socket.create_connection((host, int(port))) as far:
                time.sleep(delay_s)
                back = threading.Thread(target=pump, args=(far, near), daemon=True)
                back.start()
                pump(near, far)
                back.join()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    threading.Thread(target=join, args=(near,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def say(*responses: Any) -> Answers:
    return lambda _request, _context: iter(responses)
