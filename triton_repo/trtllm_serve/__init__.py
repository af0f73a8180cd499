"""TensorRT-LLM's own server, trtllm-serve: its command, and when it is ready."""
