"""The proof of quantized matrices, on its own: it shares no code with what made them."""
