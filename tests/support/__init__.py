"""What several tests use: tiny models, runs made by hand, stand-ins."""
