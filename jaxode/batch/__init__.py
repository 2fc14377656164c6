"""Solves of many trajectories in SIMD lanes, refilled from a queue."""
