"""What a deployment would need and do, from a config.json alone: memory, communication, speed, the choice."""
