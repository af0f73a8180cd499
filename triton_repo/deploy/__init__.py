"""The files that run an engine elsewhere: one module per target."""
