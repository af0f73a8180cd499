"""The command line: parse, call one function of `pipeline`, print. Nobody imports it but `tpforge.__main__`."""
