"""Ensembles of trajectories in SIMD lanes, fed from a queue."""
