"""Time of forward solves, batches, stiff problems, events and models, beside peers.

A benchmark is a module with a `TITLE` and a function `rows` that returns its comparisons.
"""
