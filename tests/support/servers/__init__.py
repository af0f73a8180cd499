"""Servers and programs that stand in for real ones, and answer by a script."""
