"""The options that several commands share, an idea a module: the same word means the same everywhere."""
