"""The continuous adjoint: the adjoint equation, solved backwards in time."""
