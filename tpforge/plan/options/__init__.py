"""The ways to deploy a model, each at the load that it is judged at."""
