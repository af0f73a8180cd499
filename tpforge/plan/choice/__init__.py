"""Which option is chosen, on which GPUs, and by which rules it is explained."""
