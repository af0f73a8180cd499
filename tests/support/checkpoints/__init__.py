"""Checkpoints and rank files written by hand: with holes for weights, or as a test wants them."""
