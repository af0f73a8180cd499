"""From a TensorRT-LLM checkpoint to compiled engines, by trtllm-build of a release up to 1.2."""
