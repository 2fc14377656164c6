"""Derivatives of solves: discrete and continuous adjoints, reversible solvers, forward mode."""
