"""Drills: what happens to outputs, requests and servers when something is killed, stuck, full or wrong.

`make drills` runs all of them at length and prints a line each; CI runs the short form as tests.
"""
