"""Drill: requests of a grammar that mixes legal, extreme and illegal values of every field, a canary between.

All models over gRPC and the generate endpoint over HTTP. It starts no server.
"""

from __future__ import annotations

import itertools
import json
import queue
import random
import urllib.error
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from tests.contract.asking import NUMPY
from tests.drills.figures import Figure
from tpforge.system.opener import open_url
from triton_repo.client.client import Client
from triton_repo.render.contract import expected_tensors

GENERATING = ("ensemble", "tensorrt_llm_bls", "tensorrt_llm")
MODELS = (*GENERATING, "preprocessing", "postprocessing")
DEADLINE_S = 60.0
SILENT = "without an answer or an error"
CANARY_EVERY = 20

SAMPLING = {
    *("temperature", "top_k", "runtime_top_k", "top_p", "runtime_top_p", "repetition_penalty", "seed"),
    *("presence_penalty", "frequency_penalty", "min_tokens", "return_log_probs", "num_return_sequences"),
    *("stream", "streaming", "end_id", "pad_id", "max_tokens", "request_output_len", "text_input"),
    *("bad_words", "stop_words", "exclude_input_in_output", "return_perf_metrics"),
}
_FLOATS = (0.0, 1.0, -1.0, 0.5, 1e-38, 2.0**-149, 3.4e38, -3.4e38, float("nan"), float("inf"), float("-inf"))
_INTEGERS = (0, 1, -1, 2, 5, 255, 2**31 - 1, -(2**31))
_TEXTS = (b"", b"Hello", b"\xff\xfe", b"a" * 5000, "späte Grüße".encode(), b"\x00", b"<|im_end|>")
_ALWAYS = {"text_input": (b"Hello",), "max_tokens": (4,), "QUERY": (b"Hello",), "REQUEST_OUTPUT_LEN": (4,)}
_ALWAYS |= {"input_ids": ([5, 6, 7],), "input_lengths": (3,), "request_output_len": (4,)}


def run(url: str, http_url: str, *, num_requests: int, seed: int = 0) -> Figure:
    """Send them from eight threads: what hangs or ends without a word, and canaries that answer otherwise."""
    figure = Figure("requests of every kind", "requests")
    figure.bad = {
        "hung": 0,
        SILENT: 0,
        "wrong answers to others": 0,
        "server lost": 0,
    }
    with Client(url, deadline_s=DEADLINE_S) as client:
        canary = client.generate("Hello", max_tokens=6, model="ensemble").text
    dice = random.Random(seed)
    cases = [_case(dice) for _ in range(num_requests)]
    kinds = {"answered": 0, "refused": 0}
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(_send, url, http_url, *case) for case in cases]
        for number, future in enumerate(as_completed(futures)):
            outcome = future.result()
            figure.num_tries += 1
            if outcome in kinds:
                kinds[outcome] += 1
            else:
                figure.count(outcome)
            if number % CANARY_EVERY == 0:
                with Client(url, deadline_s=DEADLINE_S) as client:
                    told = client.generate("Hello", max_tokens=6, model="ensemble").text
                figure.count("wrong answers to others", int(told != canary))
    figure.notes.append(", ".join(f"{count} {kind}" for kind, count in kinds.items()))
    return figure


def _case(dice: random.Random) -> tuple[str, dict[str, Any], bool]:
    """A model, values of some of its inputs, and whether it goes over HTTP."""
    model = dice.choice(MODELS if dice.random() < 0.2 else GENERATING)
    inputs = expected_tensors(model).inputs
    values = {one.name: _ALWAYS[one.name][0] for one in inputs if one.name in _ALWAYS}
    known = [one for one in inputs if one.name in SAMPLING]
    for _ in range(dice.choice((0, 1, 1, 2, 3))):
        # Mostly numbers that a runtime computes with; the others are refused by name.
        tensor = dice.choice(known if known and dice.random() < 0.8 else inputs)
        values[tensor.name] = _value(tensor.datatype, dice)
    if values and dice.random() < 0.05:
        values.pop(dice.choice(list(values)), None)
    return model, values, model == "ensemble" and dice.random() < 0.2


def _value(datatype: str, dice: random.Random) -> Any:
    choices: dict[str, tuple[Any, ...]] = {
        "BYTES": _TEXTS,
        "BOOL": (True, False),
        "FP32": _FLOATS,
        "FP16": _FLOATS,
        "UINT64": (0, 1, 2**64 - 1),
        "UINT8": (0, 255),
        "INT64": (*_INTEGERS, 2**63 - 1),
    }
    found = choices.get(datatype, _INTEGERS)
    return (
        dice.choice(found) if dice.random() < 0.8 else [dice.choice(found) for _ in range(dice.randint(0, 5))]
    )


def _send(url: str, http_url: str, model: str, values: dict[str, Any], by_http: bool) -> str:
    return _send_http(http_url, model, values) if by_http else _send_grpc(url, model, values)


def _send_http(http_url: str, model: str, values: dict[str, Any]) -> str:
    plain = {
        name: value.decode("latin-1") if isinstance(value, bytes) else value for name, value in values.items()
    }
    try:
        body = json.dumps(plain, default=str).encode()
        with open_url(
            f"{http_url}/v2/models/{model}/generate", timeout_s=DEADLINE_S, method="POST", body=body
        ) as answer:
            return "answered" if answer.read() else SILENT
    except urllib.error.HTTPError:
        return "refused"
    except TimeoutError:
        return "hung"
    except OSError:
        return "server lost"


def _send_grpc(url: str, model: str, values: dict[str, Any]) -> str:
    contract = {tensor.name: tensor for tensor in expected_tensors(model).inputs}
    inputs = []
    with np.errstate(over="ignore"):
        for name, value in values.items():
            tensor = contract[name]
            array = np.array(value, dtype=NUMPY[tensor.datatype])
            array = array.reshape((1,) * max(0, 1 + len(tensor.dims) - array.ndim) + array.shape)
            given = triton.InferInput(name, array.shape, tensor.datatype)
            given.set_data_from_numpy(array)
            inputs.append(given)
    answers: list[Any] = []
    with triton.InferenceServerClient(url) as client:
        events: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        client.start_stream(callback=lambda result, error: events.put((result, error)))
        try:
            client.async_stream_infer(model, inputs, enable_empty_final_response=True)
            for _ in itertools.count():
                result, error = events.get(timeout=DEADLINE_S)
                if error is not None:
                    lost = "unavailable" in str(error).lower() and "connect" in str(error).lower()
                    return "server lost" if lost else "refused"
                answers.append(result)
                if result.get_response().parameters["triton_final_response"].bool_param:
                    return "answered" if answers else SILENT
        except queue.Empty:
            return "hung"
        finally:
            client.stop_stream(cancel_requests=True)
    return SILENT
