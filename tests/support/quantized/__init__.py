"""Quantized checkpoints as their tools write them, made by hand."""
