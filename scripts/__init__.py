"""The command line: a command parses, calls one function, prints. Only `tpforge.__main__` imports it."""
