"""The options that several commands share, one idea per module: the same word means the same everywhere."""
