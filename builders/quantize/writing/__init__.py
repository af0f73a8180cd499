"""Quantized matrices as rank files hold them: put together, ordered."""
