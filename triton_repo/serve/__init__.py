"""A server on this machine: found, started, supervised, proven ready, stopped."""
