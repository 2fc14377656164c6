"""Lowering of programs of one trajectory to operations on lanes, for Pallas kernels."""
