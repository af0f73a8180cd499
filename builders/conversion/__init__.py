"""From a source to rank files: planned to the byte, then written in one pass."""
