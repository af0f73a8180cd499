"""The smoke test over OpenAI HTTP: what a server of /v1/completions and /v1/chat/completions must do."""

from triton_repo.smoke.openai.runner import run_openai_smoke
from triton_repo.smoke.openai.target import PromptTokens

__all__ = ["PromptTokens", "run_openai_smoke"]
