"""Time, evaluations and memory of gradients, beside peers.

A benchmark is a module with a `TITLE` and a function `rows` that returns its comparisons.
"""
