"""Model families as tables; `registry` finds the one a checkpoint belongs to."""
