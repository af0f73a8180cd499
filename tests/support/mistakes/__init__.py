"""Mistakes that people make with TensorRT-LLM and Triton, each with the words that refuse it."""
