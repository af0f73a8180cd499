"""The files that run an engine elsewhere: a module a target."""
