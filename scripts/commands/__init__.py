"""The commands: each parses, calls one function of flows, prints."""
