"""What the commands share at the terminal: options, output, meters. It decides nothing."""
