"""From a built engine to a Triton model repository, a running server and proven answers."""
