"""Pages for people: Markdown and self-contained HTML with inline SVG plots.

They decide nothing and measure nothing: records in, text out.
"""
