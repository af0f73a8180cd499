"""GPUs and what joins them: the tables, and what communication costs."""
