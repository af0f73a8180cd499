"""Clients: Triton's gRPC, OpenAI's HTTP, trtllm-serve's gRPC, and the metrics of all of them."""
