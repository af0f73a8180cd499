"""A checkpoint as TensorRT-LLM's LLM API takes it: which load, llm.yaml, padded when needed."""
