"""config.json files of published models, and what TensorRT-LLM's own conversion makes of them."""
