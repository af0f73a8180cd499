"""Why a request, or every request, is refused."""

from __future__ import annotations


class RequestError(ValueError):
    """A request is refused; `field` is the tensor's name in the tensorrt_llm model's contract."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class EngineError(RuntimeError):
    """The LLM API takes no requests."""
