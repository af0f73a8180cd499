"""Commands of this machine, and tpforge on it."""
