"""What `status --watch` shows of a server's metrics: Triton's names, and those of trtllm-serve."""

from __future__ import annotations

from triton_repo.client.metrics import parse_metrics
from triton_repo.monitoring.watch import Reading, rows

LABELS = '{model_name="llama",engine_type="trtllm"}'


def reading(text: str, *, seconds: float) -> Reading:
    return Reading(parse_metrics(text, source="here"), seconds)


def test_a_server_of_trtllm_serve_shows_its_requests_tokens_and_cache() -> None:
    def text(tokens: int) -> str:
        return (
            f"trtllm_num_requests_running{LABELS} 7\n"
            f"trtllm_num_requests_waiting{LABELS} 2\n"
            f"trtllm_kv_cache_utilization{LABELS} 0.625\n"
            f"# TYPE trtllm_generation_tokens counter\ntrtllm_generation_tokens_total{LABELS} {tokens}\n"
        )

    shown = dict(rows(reading(text(1500), seconds=12.0), reading(text(1000), seconds=10.0)))
    assert shown["requests running"] == "7"
    assert shown["requests waiting"].startswith("2 in the runtime")
    assert shown["output tokens/s"] == "250.0"
    assert shown["KV cache"] == "62% of the blocks"


def test_a_model_of_triton_shows_its_own() -> None:
    labels = 'model="tensorrt_llm",version="1"'
    text = (
        f'nv_trt_llm_request_metrics{{{labels},request_type="active"}} 3\n'
        f'nv_trt_llm_request_metrics{{{labels},request_type="waiting"}} 1\n'
        f'nv_trt_llm_kv_cache_block_metrics{{{labels},kv_cache_block_type="used"}} 8\n'
        f'nv_trt_llm_kv_cache_block_metrics{{{labels},kv_cache_block_type="max"}} 32\n'
    )
    shown = dict(rows(reading(text, seconds=1.0), None))
    assert shown["requests running"] == "3"
    assert shown["KV cache"] == "8 of 32 blocks"
