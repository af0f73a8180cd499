"""Kubernetes: the objects, what watches them, several nodes, a chart."""
