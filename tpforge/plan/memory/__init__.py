"""What a rank's memory holds, its KV cache, and what the host needs to make the engine."""
