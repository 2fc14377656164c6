"""One program in float32 alone, with every warning an error, in a process of its own."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import equinox as eqx, jax, jax.numpy as jnp, numpy as np, optax
import jaxode as jo

assert not jax.config.jax_enable_x64
ts = jnp.linspace(0.0, 2.0, 5)
for name in ("tsit5", "dopri8", "rk4"):
    step = {"dt": 0.1} if name == "rk4" else {}
    sol = jo.solve(lambda t, y, k: -k * y, jnp.ones(3), ts, 0.5, solver=name, **step)
    assert sol.ys.dtype == sol.ts.dtype == sol.y1.dtype == jnp.float32
    np.testing.assert_allclose(sol.ys[:, 0], np.exp(-0.5 * ts), rtol=1e-4)
for mode in ("discrete", "adjoint"):
    gradient = jax.grad(
        lambda k: jo.solve(lambda t, y, k: -k * y, 1.0, ts, k, sensitivity=mode).y1
    )(0.5)
    assert gradient.dtype == jnp.float32
    np.testing.assert_allclose(gradient, -2 * np.exp(-1.0), rtol=1e-3)
field = eqx.nn.MLP(2, 2, 8, 1, activation=jnp.tanh, key=jax.random.key(0))
data = jo.datasets.Spiral(n_points=64)()
assert data[0].dtype == jnp.float32
model = jo.NeuralDE(field, sensitivity="adjoint", solver="dopri5")
model, log = jo.fit(
    model, data, loss="cross_entropy", optimizer=optax.adam(1e-2), steps=20, progress=False
)
assert log.loss[-1] < log.loss[0]
print("all is well")
"""


@pytest.mark.slow
def test_float32_program_runs_without_a_warning():
    environment = {k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "all is well" in done.stdout
