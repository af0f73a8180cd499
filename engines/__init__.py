"""A built engine: kept, checked, proven, run. It does not convert checkpoints or talk to Triton."""
