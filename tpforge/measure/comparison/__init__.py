"""Runs side by side: rows, verdicts, limits, and what differs besides what was measured."""
