"""The gRPC protocol of `trtllm-serve --grpc`: token ids in, token ids out; its messages, by field numbers.

The messages hold the fields that are used here, which is all that the wire needs; it connects to nothing.
Source: smg-project/smg, grpc_client/proto/trtllm_service.proto, as PyPI's smg-grpc-proto 0.4.28 has it;
NVIDIA/TensorRT-LLM, tensorrt_llm/grpc (servicer of that protocol, from 1.3 on; a prototype there).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tpforge.errors import UsageError

PACKAGE, SERVICE = "trtllm", "TrtllmService"
GENERATE, HEALTH, MODEL_INFO, SERVER_INFO = (
    f"/{PACKAGE}.{SERVICE}/{name}" for name in ("Generate", "HealthCheck", "GetModelInfo", "GetServerInfo")
)
FIELDS: dict[str, tuple[tuple[str, int, str], ...]] = {
    "TokenizedInput": (("input_token_ids", 2, "uint32*"),),
    "SamplingConfig": (
        ("beam_width", 1, "int32"),
        ("num_return_sequences", 2, "uint32"),
        ("top_k", 3, "int32"),
        ("top_p", 4, "float"),
        ("seed", 8, "uint64"),
        ("temperature", 9, "float"),
        ("min_tokens", 10, "uint32"),
        ("repetition_penalty", 12, "float"),
        ("presence_penalty", 13, "float"),
        ("frequency_penalty", 14, "float"),
        ("min_p", 19, "float"),
    ),
    "OutputConfig": (("exclude_input_from_output", 5, "bool"),),
    "GenerateRequest": (
        ("request_id", 1, "string"),
        ("tokenized", 2, "TokenizedInput"),
        ("sampling_config", 3, "SamplingConfig"),
        ("output_config", 4, "OutputConfig"),
        ("max_tokens", 5, "uint32"),
        ("streaming", 6, "bool"),
        ("stop", 21, "string*"),
        ("stop_token_ids", 22, "uint32*"),
        ("ignore_eos", 23, "bool"),
    ),
    "GenerateStreamChunk": (
        ("token_ids", 1, "uint32*"),
        ("sequence_index", 2, "uint32"),
        ("prompt_tokens", 3, "uint32"),
        ("completion_tokens", 4, "uint32"),
    ),
    "GenerateComplete": (
        ("output_token_ids", 1, "uint32*"),
        ("sequence_index", 2, "uint32"),
        ("finish_reason", 3, "string"),
        ("prompt_tokens", 5, "uint32"),
        ("completion_tokens", 6, "uint32"),
    ),
    "GenerateResponse": (
        ("request_id", 1, "string"),
        ("chunk", 2, "GenerateStreamChunk"),
        ("complete", 3, "GenerateComplete"),
    ),
    "HealthCheckRequest": (),
    "HealthCheckResponse": (("status", 1, "string"),),
    "GetModelInfoRequest": (),
    "GetModelInfoResponse": (
        ("model_id", 1, "string"),
        ("max_input_len", 2, "int32"),
        ("max_seq_len", 3, "int32"),
        ("vocab_size", 5, "int32"),
    ),
    "GetServerInfoRequest": (),
    "GetServerInfoResponse": (("version", 1, "string"), ("backend", 2, "string"), ("world_size", 6, "int32")),
}
"""Message, field, number, type; a star is a list."""
SAMPLING = tuple(name for name, _, _ in FIELDS["SamplingConfig"] if name != "beam_width")
"""What a client may ask for by name, besides `stop` and `ignore_eos` of the request."""


def _messages() -> Mapping[str, Any]:
    """The classes; in proto2, whose fields know whether they were given, and the bytes are the same."""
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="tpforge/smg.proto", package=PACKAGE, syntax="proto2")
    for name, fields in FIELDS.items():
        message = file.message_type.add(name=name)
        for field, number, declared in fields:
            bare = declared.removesuffix("*")
            added = message.field.add(name=field, number=number)
            added.label = kind.LABEL_REPEATED if declared.endswith("*") else kind.LABEL_OPTIONAL
            if bare in FIELDS:
                added.type, added.type_name = kind.TYPE_MESSAGE, f".{PACKAGE}.{bare}"
            else:
                added.type = kind.Type.Value(f"TYPE_{bare.upper()}")
            if declared == "uint32*":
                added.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
        for name in FIELDS
    }


MESSAGES = _messages()


def generate_request(
    token_ids: Sequence[int],
    *,
    max_tokens: int,
    request_id: str = "",
    streaming: bool = True,
    sampling: Mapping[str, Any] | None = None,
) -> Any:
    """A request for tokens after `token_ids`; `sampling` may have `stop` and `ignore_eos` too.

    Raises:
        UsageError: a name of `sampling` is no field, or its value is not of the field's type.
    """
    request = MESSAGES["GenerateRequest"](request_id=request_id, max_tokens=max_tokens, streaming=streaming)
    request.tokenized.input_token_ids.extend(token_ids)
    request.sampling_config.beam_width = request.sampling_config.num_return_sequences = 1
    request.output_config.exclude_input_from_output = True
    for name, value in (sampling or {}).items():
        try:
            if name == "stop":
                request.stop.extend([value] if isinstance(value, str) else value)
            elif name == "ignore_eos":
                request.ignore_eos = value
            elif name in SAMPLING:
                setattr(request.sampling_config, name, value)
            else:
                known = ", ".join(sorted((*SAMPLING, "stop", "ignore_eos")))
                raise UsageError(f"trtllm-serve's gRPC has no {name}; it has {known}")
        except (TypeError, ValueError) as error:
            raise UsageError(f"{name}={value!r}: {error}") from error
    return request
