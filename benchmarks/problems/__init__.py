"""Differential equations that several benchmarks solve."""
