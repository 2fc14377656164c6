"""Solvers: how one step is made, and how long it is."""
