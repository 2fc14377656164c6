"""Solves as operations of JAX: `vmap` turns one into a solve of many trajectories in lanes."""
