"""Solvers: one step of each method, step-size control, and the linear systems of implicit steps."""
