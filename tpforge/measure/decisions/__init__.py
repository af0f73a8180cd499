"""A decision with the runs and the prices that it rests on."""
