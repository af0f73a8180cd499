"""Commands of a server, from its files to an answer."""
