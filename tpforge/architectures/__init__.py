"""What today's architectures are made of, as tables: where sizes stand, what a layer holds and caches."""
