"""Commands of runs, scores, and what is decided of them."""
