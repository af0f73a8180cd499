"""A run: its record, its samples, its metrics, and how two of them are joined or exported."""
