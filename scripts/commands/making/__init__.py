"""Commands of from a checkpoint to a proven engine, and the engines that are kept."""
