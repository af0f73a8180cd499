"""The four forms of model: what each is sent, and how its responses are read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tpforge.errors import UsageError
from tpforge.measure.runs.prompts import Prompt
from triton_repo.client.wire import tensor
from triton_repo.load.counting import Counting
from triton_repo.load.exchange import Exchange, Reading
from triton_repo.load.triton_target import TritonModel, TritonOptions, TritonTarget

TEXT = {
    "text_input": "BYTES",
    "max_tokens": "INT32",
    "min_tokens": "INT32",
    "stream": "BOOL",
    "top_k": "INT32",
}
TOKENS = {"input_ids": "INT32", "input_lengths": "INT32", "request_output_len": "INT32", "streaming": "BOOL"}
LLMAPI = {
    "text_input": "BYTES", "sampling_param_max_tokens": "INT32", "streaming": "BOOL",
    "sampling_param_exclude_input_from_output": "BOOL", "return_finish_reason": "BOOL",
}  # fmt: skip
PROMPT = Prompt(id="p", text="né", max_tokens=9, min_tokens=9)


def target(form: Any, inputs: dict[str, str], *, cumulative: bool = False, **options: Any) -> TritonTarget:
    model = TritonModel(
        name="m",
        form=form,
        inputs=inputs,
        batched=form != "llmapi",
        is_cumulative=cumulative,
        max_batch_size=0 if form == "llmapi" else 8,
        parameters={},
    )
    return TritonTarget("h:1", model, options=TritonOptions(**options), encode=lambda text: [5, 6, 7])


def sent(asked: TritonTarget) -> dict[str, tuple[list[int], Any]]:
    """Shape and value of every input, as the protobuf on the wire has them."""
    asked.prepare([PROMPT])
    request = service_pb2.ModelInferRequest.FromString(asked._requests["p"])
    assert request.parameters["triton_enable_empty_final_response"].bool_param
    found = {}
    for item, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        value: Any = raw[4:].decode() if item.datatype == "BYTES" else None
        if item.datatype != "BYTES":
            value = np.frombuffer(raw, {"INT32": np.int32, "BOOL": bool}[item.datatype]).tolist()
        found[item.name] = (list(item.shape), value)
    return found


def test_text_models_are_sent_text_and_both_bounds() -> None:
    assert sent(target("text", TEXT, sampling={"top_k": 3})) == {
        "text_input": ([1, 1], "né"),
        "max_tokens": ([1, 1], [9]),
        "min_tokens": ([1, 1], [9]),
        "stream": ([1, 1], [True]),
        "top_k": ([1, 1], [3]),
    }
    assert "stream" not in sent(target("text", TEXT, streaming=False))


def test_tensorrt_llm_is_sent_token_ids() -> None:
    assert sent(target("tokens", TOKENS)) == {
        "input_ids": ([1, 3], [5, 6, 7]),
        "input_lengths": ([1, 1], [3]),
        "request_output_len": ([1, 1], [9]),
        "streaming": ([1, 1], [True]),
    }


def test_llmapi_has_no_batch_dimension_and_leaves_the_prompt_out() -> None:
    assert sent(target("llmapi", LLMAPI)) == {
        "text_input": ([1], "né"),
        "sampling_param_max_tokens": ([1], [9]),
        "sampling_param_exclude_input_from_output": ([1], [True]),
        "return_finish_reason": ([1], [True]),
        "streaming": ([1], [True]),
    }


def test_unknown_input_and_missing_tokenizer_are_refused() -> None:
    with pytest.raises(UsageError, match="no input topk; it has"):
        target("text", TEXT, sampling={"topk": 1})
    model = target("tokens", TOKENS).model
    with pytest.raises(UsageError, match="--tokenizer"):
        TritonTarget("h:1", model, options=TritonOptions())


def message(*, final: bool = False, error: str = "", **outputs: tuple[str, Any]) -> bytes:
    response = service_pb2.ModelStreamInferResponse(error_message=error)
    answer = response.infer_response
    for name, (datatype, values) in outputs.items():
        item = tensor(name, datatype, values)
        answer.outputs.add(name=name, datatype=datatype, shape=item.values.shape)
        if datatype == "BYTES":
            flat = b"".join(len(v).to_bytes(4, "little") + v for v in item.values.reshape(-1))
        else:
            flat = item.values.tobytes()
        answer.raw_output_contents.append(flat)
    answer.parameters["triton_final_response"].bool_param = final
    return bytes(response.SerializeToString())


def read(asked: TritonTarget, *pieces: bytes) -> Reading:
    exchange = Exchange(index=0, phase="measured", prompt=PROMPT, scheduled=0.0)
    exchange.pieces, exchange.arrivals = list(pieces), [float(n) for n in range(len(pieces))]
    return asked.read(exchange)


def text(piece: str, *, final: bool = False, **more: tuple[str, Any]) -> bytes:
    return message(final=final, text_output=("BYTES", [piece]), **more)


def test_responses_without_text_are_no_tokens_and_an_empty_final_one_ends() -> None:
    found = read(target("text", TEXT), text(" a"), text(""), text(" b"), message(final=True))
    assert ([piece.at for piece in found.pieces], found.text, found.failure) == ([0, 2], " a b", None)


def test_cumulative_text_is_taken_apart() -> None:
    stream = (text("a"), text("a b"), text("a b"), text("a b c", final=True))
    found = read(target("text", TEXT, cumulative=True), *stream)
    assert [piece.text for piece in found.pieces] == ["a", " b", " c"]
    assert (found.input_tokens, found.output_tokens) == (None, None)


def test_what_the_server_counted_is_summed_over_its_responses() -> None:
    """A response may hold several tokens, or a token of which no whole character is there yet."""

    def counted(number: int) -> dict[str, tuple[str, Any]]:
        return {"num_input_tokens": ("INT32", [[4]]), "num_output_tokens": ("INT32", [[number]])}

    stream = (text(" a b", **counted(2)), text("", **counted(1)), text("\u00e9", **counted(1)))
    found = read(target("text", TEXT), *stream, text("", final=True, **counted(0)))
    assert [(piece.at, piece.text, piece.num_tokens) for piece in found.pieces] == [
        (0, " a b", 2), (1, "", 1), (2, "\u00e9", 1)
    ]  # fmt: skip
    assert (found.input_tokens, found.output_tokens) == (4, 4)
    (output,) = Counting(outputs=lambda texts: [99 for _ in texts]).output_tokens([found])
    assert (output.num_tokens, output.per_response) == (4, (2, 1, 1))


def test_a_server_that_can_count_is_asked_to() -> None:
    flags = {"return_num_input_tokens": "BOOL", "return_num_output_tokens": "BOOL"}
    asked = sent(target("text", {**TEXT, **flags}))
    assert asked["return_num_input_tokens"] == asked["return_num_output_tokens"] == ([1, 1], [True])


def test_token_ids_are_counted_a_response() -> None:
    ids = [
        message(output_ids=("INT32", [[[5, 6, 0]]]), sequence_length=("INT32", [[2]])),
        message(output_ids=("INT32", [[[7]]]), sequence_length=("INT32", [[1]]), final=True),
    ]
    found = read(target("tokens", TOKENS), *ids)
    assert [piece.token_ids for piece in found.pieces] == [(5, 6), (7,)]


def test_llmapi_tells_why_it_ended() -> None:
    stream = text("a", final=True, finish_reason=("BYTES", ["stop"]))
    assert read(target("llmapi", LLMAPI, cumulative=True), stream).finish_reason == "stop"


def test_wrong_streams_are_told_apart() -> None:
    asked = target("text", TEXT)
    found = [
        read(asked, text("a"), message(error="no slot")),
        read(asked, text("a")),
        read(asked, message(final=True)),
        read(asked, b"\xff\xff\xff"),
        read(asked, message(final=True, other=("INT32", [1]))),
    ]
    kinds = [reading.failure.kind if reading.failure else None for reading in found]
    assert kinds == ["refused", "incomplete", None, "malformed", "malformed"]
    assert found[0].text == "a" and found[0].failure is not None and found[0].failure.message == "no slot"
