"""The error of an engine that cannot be executed."""

from __future__ import annotations


class EngineError(RuntimeError):
    """The engine folder cannot be executed: what was found, what was expected."""
