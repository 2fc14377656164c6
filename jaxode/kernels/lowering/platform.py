"""The backend that kernels are built for."""

import jax


def backend() -> str:
    """Return the name of the backend; on "cpu" kernels are interpreted by JAX."""
    return jax.default_backend()
