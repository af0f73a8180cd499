"""Every form of decoder layer, as a tiny transformers model and as rank files written by hand."""
