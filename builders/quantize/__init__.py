"""Quantized weights: made from float ones while converting, or read from checkpoints that hold them."""
