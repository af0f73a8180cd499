"""From an engine to its model repository, and the contract that it keeps."""
