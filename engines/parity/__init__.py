"""Whether an engine computes what transformers computes of its source: the proof by logits."""
