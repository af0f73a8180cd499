"""Measurements as records: samples, statistics over them, runs, and what follows from them.

It sends no request: that is `triton_repo.load`.
"""
