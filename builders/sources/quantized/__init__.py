"""Readers of checkpoints that come quantized: one file a layout."""
