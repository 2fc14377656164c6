"""The discrete adjoint: accepted steps run again, the last first, each pulled back."""
