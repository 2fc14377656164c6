"""What kernels are made for."""

import jax


def backend() -> str:
    """The name of the backend; on "cpu" kernels have no compiler, and JAX carries them out."""
    return jax.default_backend()
