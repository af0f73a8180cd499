"""What the stored tensors of each quantization format must be, written apart from what makes them."""
