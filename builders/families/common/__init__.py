"""What the tables of families are made of: rows, tensors, keys of config.json, readers."""
