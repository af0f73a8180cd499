"""Where a model repository is served: this machine, so far."""
