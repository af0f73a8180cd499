"""Outputs on disk: where they lie, whole or not at all, what in them is ours, what they were made of."""
