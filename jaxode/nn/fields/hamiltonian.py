"""Hamiltonian and port-Hamiltonian fields, which follow from an energy."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from ...problem.errors import FieldError, OptionError
from ...problem.field import call_field
from ...problem.validation import check_count, check_flag, check_key, real_array
from .checks import check_callable, gradient, halves


class Hamiltonian(eqx.Module):
    """The Hamiltonian field of an energy H: for `y = (q, p)`, `q' = dH/dp` and `p' = -dH/dq`.

    The energy is conserved; with a symplectic solver it does not drift.

    **Arguments:**

    - `energy`: of `(y)`, `(t, y)` or `(t, y, args)`, returns a scalar; a network such as
      `eqx.nn.MLP(2 * n, "scalar", 64, 2, jnp.tanh, key=key)`, which must be smooth.

    **Raises:** `FieldError` if the energy cannot be called; called, if it is not scalar or the
    state is not a vector of even size.

    Source: Greydanus et al., Hamiltonian neural networks (2019), arXiv 1906.01563.
    """

    energy: Any

    def __init__(self, energy: Any) -> None:
        self.energy = check_callable("Hamiltonian", "energy", energy)

    def __call__(self, t: Array, y: Float[Array, " size"], args: PyTree = None) -> Array:
        """The time derivative at `y`, shaped like `y`."""
        halves("Hamiltonian", y)
        by_q, by_p = jnp.split(gradient("Hamiltonian", "energy", self.energy, t, y, args), 2)
        return jnp.concatenate([by_p, -by_q])


class PortHamiltonian(eqx.Module):
    """The port-Hamiltonian field, with dissipation and controls: `y' = (J - R) dH/dy + G u`.

    `R = L L'` is positive semidefinite, so without controls the energy never increases.

    **Arguments:**

    - `energy`: as of `Hamiltonian`, here of a state of any `size`.
    - `size`: of the state.
    - `structure`: J. "canonical", that of `(q, p)` for an even size; "learned", a trained
      antisymmetric matrix; or an antisymmetric matrix of shape `(size, size)`, held fixed.
    - `dissipation`: whether there is an R; its L is trained, from 0.1 on the diagonal.
    - `controls`: how many controls there are; G, of shape `(size, controls)`, is trained.
    - `control`: u, of `(y)`, `(t, y)` or `(t, y, args)`, returns shape `(controls,)`. By default
      `args` is u.
    - `key`: for G and a learned J.

    **Raises:** `OptionError` for options that do not fit; called, `FieldError` where a
    function returns another shape.

    Source: van der Schaft and Jeltsema (2014); Desai et al., Port-Hamiltonian neural networks
    (2021), arXiv 2107.08024.
    """

    energy: Any
    control: Any
    size: int = eqx.field(static=True)
    # A fixed structure is static, so that no optimiser changes it.
    fixed: tuple[tuple[float, ...], ...] | None = eqx.field(static=True)
    generator: Float[Array, "size size"] | None
    factor: Float[Array, "size size"] | None
    inputs: Float[Array, "size controls"] | None

    def __init__(
        self,
        energy: Any,
        size: int,
        *,
        structure: Literal["canonical", "learned"] | Any = "canonical",
        dissipation: bool = True,
        controls: int = 0,
        control: Any = None,
        key: Array | None = None,
    ) -> None:
        self.energy = check_callable("PortHamiltonian", "energy", energy)
        size = check_count("PortHamiltonian: size", size)
        controls = check_count("PortHamiltonian: controls", controls, least=0)
        self.size = size
        if control is not None:
            check_callable("PortHamiltonian", "control", control)
            if not controls:
                raise OptionError("PortHamiltonian: a control needs controls=..., their number")
        check_flag("PortHamiltonian: dissipation", dissipation)
        if key is not None:
            check_key(key)
        learned = isinstance(structure, str) and structure == "learned"
        if key is None and (learned or controls):
            raise OptionError("PortHamiltonian: controls and a learned structure need key=...")
        keys = jax.random.split(jax.random.key(0) if key is None else key)
        scale = size**-0.5
        self.control = control
        self.fixed = None if learned else _structure_entries(structure, size)
        self.generator = scale * jax.random.normal(keys[0], (size, size)) if learned else None
        self.factor = 0.1 * jnp.eye(size) if dissipation else None
        self.inputs = scale * jax.random.normal(keys[1], (size, controls)) if controls else None

    def structure(self) -> Float[Array, "size size"]:
        """J, antisymmetric."""
        if self.generator is None:
            return jnp.asarray(self.fixed)
        return self.generator - self.generator.T

    def dissipation(self) -> Float[Array, "size size"]:
        """R, symmetric and positive semidefinite."""
        if self.factor is None:
            return jnp.zeros((self.size, self.size))
        lower = jnp.tril(self.factor)
        return lower @ lower.T

    def __call__(self, t: Array, y: Float[Array, " size"], args: PyTree = None) -> Array:
        """The time derivative at `y`, shaped like `y`."""
        if y.shape != (self.size,):
            raise FieldError(f"PortHamiltonian: the state has size {self.size}, got {y.shape}")
        energy_gradient = gradient("PortHamiltonian", "energy", self.energy, t, y, args)
        derivative = (self.structure() - self.dissipation()).astype(y.dtype) @ energy_gradient
        if self.inputs is None:
            return derivative
        u = args if self.control is None else call_field(self.control, t, y, args)
        if jnp.shape(u) != self.inputs.shape[1:]:
            source = "args" if self.control is None else "what control returns"
            raise FieldError(
                f"PortHamiltonian: {source} must be the controls, of shape "
                f"{self.inputs.shape[1:]}, got {jnp.shape(u)}"
            )
        return derivative + self.inputs @ u


def _structure_entries(structure: Any, size: int) -> tuple[tuple[float, ...], ...]:
    """The entries of a fixed matrix J. **Raises:** `OptionError`."""
    if isinstance(structure, str):
        if structure != "canonical":
            raise OptionError(
                "PortHamiltonian: structure must be 'canonical', 'learned' or a matrix, got "
                f"{structure!r}"
            )
        if size % 2:
            raise OptionError(
                f"PortHamiltonian: the canonical structure is of an even size, got {size}; use "
                "structure='learned' or a matrix"
            )
        identity, zero = np.eye(size // 2), np.zeros((size // 2, size // 2))
        structure = np.block([[zero, identity], [-identity, zero]])
    matrix = np.asarray(real_array("PortHamiltonian: structure", structure), float)
    if matrix.shape != (size, size) or not np.allclose(matrix, -matrix.T):
        raise OptionError(
            f"PortHamiltonian: structure must be an antisymmetric matrix of shape {(size, size)}"
        )
    return tuple(tuple(row) for row in matrix.tolist())
