"""From a compiled engine's settings to the LLM API's."""
