"""What goes into a plan besides the model, and what comes of one: a trace, a second opinion, a recipe."""
