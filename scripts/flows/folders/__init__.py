"""Engine folders as the flows plan, write, keep and remove them."""
