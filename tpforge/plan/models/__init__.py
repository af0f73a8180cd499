"""The models that are known by name, each with what a plan needs of its config.json."""
