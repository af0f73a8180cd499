"""`make measure`: every measured figure of README and docs, measured again and written into its page.

It measures nothing itself: benchmarks do.
"""
