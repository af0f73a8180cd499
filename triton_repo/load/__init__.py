"""Load on a server, measured: who asks when, over which protocol, and what is read beside it."""
