"""The discrete adjoint: the exact derivative of the computed solution."""
