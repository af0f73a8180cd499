"""What each quantization format stores and how it packs."""
