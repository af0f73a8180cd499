"""How long a step takes: products, attention, experts; and a server of such steps, simulated."""
