"""What `tpforge bench` is asked to measure, and what it could see."""
