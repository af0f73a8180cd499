"""How a model is divided over ranks: mapping, padding, sections, cuts, packing. No tensors."""
