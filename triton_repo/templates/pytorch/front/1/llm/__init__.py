"""TensorRT-LLM's LLM API as a runtime behind the tensors of inflight_batcher_llm."""
