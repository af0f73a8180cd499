"""The client against a real gRPC server in this process, which says what each test needs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tests.support.certificates import make_certificate
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_ports
from tests.support.servers.grpc_server import (
    empty_final,
    far_away,
    refusal,
    say,
    serving,
    text_response,
)
from tpforge.errors import EnvironmentUnusable, InputRefused, UsageError
from triton_repo.client.client import (
    Client,
    DeadlineExceeded,
    RequestCancelled,
    RequestRefused,
    ServerUnreachable,
    Tls,
    prompt_tensors,
)
from triton_repo.client.wire import decode_response, encode_request, tensor
from triton_repo.promote.router import MAX_REQUEST_BYTES, Route, Router


def test_a_connection_may_take_longer_than_the_pause_before_the_next_try() -> None:
    with (
        serving(say(text_response("a", final=True))) as (_, url),
        far_away(url, delay_s=0.5) as distant,
        Client(distant, deadline_s=PATIENCE_S) as client,
    ):
        assert client.generate("x", max_tokens=1).text == "a"


def test_a_request_over_the_limit_is_refused_by_the_router_and_the_next_is_answered(tmp_path: Path) -> None:
    router = Router(tmp_path)
    with serving(say(text_response("a", final=True))) as (servicer, url):
        router.turn(Route(target=url, engine="e"))
        front = router.start(host="127.0.0.1", port=free_ports().grpc).url
        try:
            with Client(front, deadline_s=PATIENCE_S) as client:
                with pytest.raises(InputRefused, match=rf"larger than max .*vs\. {MAX_REQUEST_BYTES}"):
                    client.generate("x" * (MAX_REQUEST_BYTES + 1), max_tokens=1)
                assert servicer.requests == []
                assert client.generate("x" * (1 << 20), max_tokens=1).text == "a"
        finally:
            router.stop()


def test_prompt_and_sampling_travel_as_tensors_of_the_contract() -> None:
    with serving(say(text_response("a", final=True))) as (servicer, url), Client(url) as client:
        client.generate(
            "hé", max_tokens=5, stream=True, temperature=0.5, seed=7, stop_words=["a", "bc"], request_id="r1"
        )
    request = servicer.requests[0]
    assert (request.model_name, request.id) == ("ensemble", "r1")
    assert request.parameters["triton_enable_empty_final_response"].bool_param
    sent = {
        item.name: (item.datatype, list(item.shape), content)
        for item, content in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    assert sent == {
        "text_input": ("BYTES", [1, 1], b"\x03\x00\x00\x00h\xc3\xa9"),
        "max_tokens": ("INT32", [1, 1], b"\x05\x00\x00\x00"),
        "temperature": ("FP32", [1, 1], np.float32(0.5).tobytes()),
        "seed": ("UINT64", [1, 1], np.uint64(7).tobytes()),
        "stop_words": ("BYTES", [1, 2], b"\x01\x00\x00\x00a\x02\x00\x00\x00bc"),
        "stream": ("BOOL", [1, 1], b"\x01"),
        "exclude_input_in_output": ("BOOL", [1, 1], b"\x01"),
    }


def test_input_that_the_model_does_not_have_is_refused_before_it_is_sent() -> None:
    with pytest.raises(UsageError, match="ensemble has no input 'topk'"):
        prompt_tensors(["a"], max_tokens=1, model="ensemble", stream=False, topk=3)


def test_stream_is_joined_in_order_with_the_flag_on_the_last_token() -> None:
    answers = say(text_response("a"), text_response(" b"), text_response(" c", final=True))
    with serving(answers) as (_, url), Client(url) as client:
        answer = client.generate("x", max_tokens=3, stream=True)
    assert answer.text == "a b c"
    assert [(chunk.text, chunk.final) for chunk in answer.chunks] == [
        ("a", False),
        (" b", False),
        (" c", True),
    ]
    assert answer.num_final == 1


def test_flag_may_come_in_an_empty_response_of_its_own() -> None:
    with serving(say(text_response("a b"), empty_final())) as (_, url), Client(url) as client:
        answer = client.generate("x", max_tokens=3)
    assert (answer.text, answer.num_final, answer.chunks[-1].text) == ("a b", 1, "")


def test_answers_of_a_batch_are_put_in_the_order_of_the_prompts() -> None:
    answers = say(
        text_response("second", batch_index=1),
        text_response("first", batch_index=0),
        text_response("third", batch_index=2, final=True),
    )
    with serving(answers) as (servicer, url), Client(url) as client:
        assert client.generate_batch(["a", "b", "c"], max_tokens=1) == ("first", "second", "third")
    assert [list(item.shape) for item in servicer.requests[0].inputs] == [[3, 1], [3, 1], [3, 1]]


def test_refused_request_keeps_the_message_of_the_server_verbatim() -> None:
    message = "top_k: -1 is negative; expected 0 or more"
    with (
        serving(say(refusal(message))) as (_, url),
        Client(url) as client,
        pytest.raises(RequestRefused) as caught,
    ):
        client.generate("x", max_tokens=1, top_k=-1)
    assert str(caught.value) == message
    assert isinstance(caught.value, InputRefused)


def test_status_of_the_call_is_a_refusal_too() -> None:
    def refuse(_request: Any, context: Any) -> Iterator[Any]:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "[request id: 1] no such model")
        yield

    with (
        serving(refuse) as (_, url),
        Client(url) as client,
        pytest.raises(RequestRefused, match=r"^\[request id: 1\] no such model$"),
    ):
        client.generate("x", max_tokens=1)


def test_nothing_listening_is_told_with_the_remedy() -> None:
    with (
        Client("localhost:9") as client,
        pytest.raises(ServerUnreachable, match=r"nothing answers.*tpforge serve"),
    ):
        client.is_live()


def test_deadline_ends_a_request_that_hangs() -> None:
    gone = threading.Event()

    def hang(_request: Any, context: Any) -> Iterator[Any]:
        context.add_callback(gone.set)
        yield text_response("a")
        gone.wait(PATIENCE_S)

    with serving(hang) as (_, url), Client(url, deadline_s=1) as client:
        with pytest.raises(DeadlineExceeded, match=r"no complete answer within 1 s"):
            client.generate("x", max_tokens=9, stream=True)
        assert gone.wait(PATIENCE_S), "the server was not told that nobody waits any more"


def test_server_that_goes_away_in_mid_stream_is_an_error_at_once() -> None:
    flowing, end = threading.Event(), threading.Event()

    def hang(_request: Any, context: Any) -> Iterator[Any]:
        context.add_callback(end.set)
        yield text_response("a")
        flowing.set()
        end.wait(PATIENCE_S)

    with serving(hang) as (_, url):
        client = Client(url)
        chunks = client.chunks("x", max_tokens=9)
        assert next(chunks).text == "a"
        flowing.wait(PATIENCE_S)
    with pytest.raises((ServerUnreachable, RequestCancelled)), client:
        next(chunks)


def test_leaving_the_loop_early_cancels_the_request() -> None:
    cancelled = threading.Event()

    def endless(_request: Any, context: Any) -> Iterator[Any]:
        context.add_callback(cancelled.set)
        while context.is_active():
            yield text_response("a")

    with serving(endless) as (_, url), Client(url) as client:
        chunks = client.chunks("x", max_tokens=9)
        assert next(chunks).text == "a"
        chunks.close()
        assert cancelled.wait(PATIENCE_S)


def test_cancelled_stream_says_so() -> None:
    def endless(_request: Any, context: Any) -> Iterator[Any]:
        while context.is_active():
            yield text_response("a")

    with serving(endless) as (_, url), Client(url) as client:
        stream = client.open("ensemble", [])
        with pytest.raises(RequestCancelled):
            for _ in stream:
                stream.cancel()


def test_stream_that_a_stopping_server_cancels_is_the_servers_doing() -> None:
    def stop(_request: Any, context: Any) -> Iterator[Any]:
        yield text_response("a")
        context.abort(grpc.StatusCode.CANCELLED, "CANCELLED")

    with (
        serving(stop) as (_, url),
        Client(url) as client,
        pytest.raises(ServerUnreachable, match="the server ended the request unasked"),
    ):
        client.generate("x", max_tokens=9)


def test_one_client_serves_many_threads_at_once() -> None:
    def repeat(request: Any, _context: Any) -> Iterator[Any]:
        prompt = request.raw_input_contents[0][4:].decode()
        for _ in range(20):
            yield text_response(prompt)
        yield empty_final()

    prompts = [f"<{index}>" for index in range(16)]
    with serving(repeat) as (_, url), Client(url) as client, ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda prompt: client.generate(prompt, max_tokens=20).text, prompts))
    assert texts == [prompt * 20 for prompt in prompts]


def test_headers_go_with_every_request() -> None:
    headers = {"Authorization": "Bearer x", "triton-grpc-protocol-key": "y"}
    with (
        serving(say(text_response("a", final=True))) as (servicer, url),
        Client(url, headers=headers) as client,
    ):
        assert client.is_live()
        client.generate("x", max_tokens=1)
    for metadata in servicer.metadata:
        assert metadata["authorization"] == "Bearer x"
        assert metadata["triton-grpc-protocol-key"] == "y"
    assert len(servicer.metadata) == 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def test_tls_with_a_client_certificate(certificate: tuple[Path, Path]) -> None:
    key, chain = certificate
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), chain.read_bytes())],
        root_certificates=chain.read_bytes(),
        require_client_auth=True,
    )
    tls = Tls(root_certificates=chain, private_key=key, certificate_chain=chain)
    with serving(say(text_response("a", final=True)), credentials=credentials) as (_, url):
        with Client(url, tls=tls) as client:
            assert client.generate("x", max_tokens=1).text == "a"
        with Client(url, tls=Tls(root_certificates=chain)) as client, pytest.raises(EnvironmentUnusable):
            client.is_live()
        with Client(url) as client, pytest.raises(EnvironmentUnusable):
            client.is_live()


def test_certificate_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"missing\.pem: cannot be read: No such file"):
        Client("localhost:1", tls=Tls(root_certificates=tmp_path / "missing.pem"))


@pytest.mark.parametrize("url", ["localhost", "http://localhost:8001", "https://x:1"])
def test_url_that_is_no_grpc_endpoint_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is not HOST:PORT of a gRPC endpoint"):
        Client(url)


def test_stop_asks_the_generator_by_the_id() -> None:
    with serving(say(empty_final())) as (servicer, url), Client(url) as client:
        client.stop("r7")
    request = servicer.requests[0]
    assert (request.model_name, request.id) == ("tensorrt_llm", "r7")
    sent = dict(zip([item.name for item in request.inputs], request.raw_input_contents, strict=True))
    assert sent["stop"] == b"\x01"


def test_tensors_of_every_type_come_back_as_they_were_sent() -> None:
    message = service_pb2.ModelStreamInferResponse()
    tensors = [
        tensor("bytes", "BYTES", [["a", b"\xff"]]),
        tensor("int32", "INT32", [[1, -2], [3, 4]]),
        tensor("fp32", "FP32", [0.5]),
        tensor("bool", "BOOL", [[True]]),
    ]
    request = encode_request("m", tensors, parameters={"flag": True, "count": 3, "name": "x"})
    for item, content in zip(request.inputs, request.raw_input_contents, strict=True):
        message.infer_response.outputs.add(name=item.name, datatype=item.datatype, shape=item.shape)
        message.infer_response.raw_output_contents.append(content)
    outputs = decode_response(message).outputs
    assert outputs["bytes"].tolist() == [[b"a", b"\xff"]]
    assert outputs["int32"].tolist() == [[1, -2], [3, 4]]
    assert outputs["fp32"].tolist() == [0.5]
    assert outputs["bool"].tolist() == [[True]]
    assert request.parameters["flag"].bool_param
    assert (request.parameters["count"].int64_param, request.parameters["name"].string_param) == (3, "x")


def test_prompt_may_be_bytes_that_are_no_text() -> None:
    sent = prompt_tensors([b"\xff\xfe"], max_tokens=1, model="ensemble", stream=False)[0]
    assert sent.values.tolist() == [[b"\xff\xfe"]]
