"""Where matrices that are quantized in groups may be cut, and how INT4 lies for the kernels of a GPU."""
