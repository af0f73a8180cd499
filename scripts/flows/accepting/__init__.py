"""What `tpforge accept` tries: its claims, their commands, what is kept of them and what is left out."""
