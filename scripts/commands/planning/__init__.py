"""Commands of what a model is and needs, before anything is made."""
