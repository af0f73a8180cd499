"""The proof that rank files hold the source, by its own arithmetic; it shares no code with the conversion."""
