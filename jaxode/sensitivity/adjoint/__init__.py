"""The continuous adjoint: its equation, and the way back along it."""
