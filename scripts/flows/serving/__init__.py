"""How a server of an engine is started: TensorRT-LLM's own programs, several alike, a front before them."""
