"""From responses of tensorrt_llm to the chunks of Dynamo's front: tokens, counts, why an answer ended.

The front turns tokens into text and finds stop strings in it. It receives nothing.
"""

from __future__ import annotations

from typing import Any

from triton_repo.client.wire import Response

Chunk = dict[str, Any]


class Counted:
    """The answer to one request, a chunk at a time, with how many tokens it has so far."""

    def __init__(self, *, num_prompt: int, max_tokens: int) -> None:
        self._num_prompt, self._max_tokens = num_prompt, max_tokens
        self._num_output = 0

    def read(self, response: Response) -> Chunk | None:
        """The chunk of a response; None when it holds no token."""
        if "output_ids" not in response.outputs:
            return None
        length = int(response.outputs["sequence_length"].reshape(-1)[0])
        tokens = [int(token) for token in response.outputs["output_ids"].reshape(-1)[:length]]
        if not tokens:
            return None
        self._num_output += len(tokens)
        chunk: Chunk = {"token_ids": tokens, "index": 0}
        if (log_probs := response.outputs.get("output_log_probs")) is not None:
            chunk["log_probs"] = [float(value) for value in log_probs.reshape(-1)[: len(tokens)]]
        return chunk

    def end(self, reason: str | None = None) -> Chunk:
        """The last chunk, which says why the answer ended: at its limit, by an end token, or as given."""
        known = "length" if self._num_output >= self._max_tokens else "stop"
        return {
            "token_ids": [],
            "index": 0,
            "finish_reason": reason or known,
            "completion_usage": {
                "prompt_tokens": self._num_prompt,
                "completion_tokens": self._num_output,
                "total_tokens": self._num_prompt + self._num_output,
            },
        }
