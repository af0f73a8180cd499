"""The pure core of tpforge: what models, shards, engines and recipes are.

It does not read files, load tensors, start processes or open sockets.
"""

__version__ = "0.1.0"
