"""Engine folders over a network: pushed, pulled, resumed, proven by hashes."""
