"""Tests of tpforge; see CONTRIBUTING.md for how they are arranged."""
