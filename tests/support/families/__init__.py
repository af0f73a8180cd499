"""Every model family as a case, and the proof that is recorded of it."""
