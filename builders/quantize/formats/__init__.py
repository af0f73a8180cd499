"""A file a quantization format: how its matrices are made of floats, or of what a checkpoint holds."""
