"""Multistep solvers of variable order: BDF and Adams methods."""
