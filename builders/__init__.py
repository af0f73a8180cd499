"""From a Hugging Face checkpoint to a TensorRT-LLM checkpoint, and the proof that they are the same.

It runs nothing and serves nothing; importing it imports no tensor library.
"""
