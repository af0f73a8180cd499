"""What developers run: generated pages, the measured demonstration, setup."""
