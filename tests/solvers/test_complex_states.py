"""Complex states of implicit solvers: values and derivatives are those of the complex field."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import jaxode as jo
from jaxode.solvers.registry import SOLVERS
from tests.support.sweeps import few

RATE, END = -50 + 30j, 0.1
START = jnp.array([1.0 + 0j, 1j])
# A coupled system, a mass matrix, and their solution at 0.5.
MATRIX = np.array([[-1.0, 2j], [-3.0, -2 + 1j]])
MASS = np.array([[2 + 1j, 0.5], [0.0, 1 - 1j]])
IMPLICIT = sorted({s.names[0] for s in SOLVERS.values() if s.implicit})
ADAPTIVE = [name for name in IMPLICIT if SOLVERS[name]().error_exponent is not None]
ADAPTIVE.remove("implicit_euler")  # of order 1: it would take thousands of steps
FAST = ("rodas5p", "kvaerno5", "bdf", "radau_iia5", "auto")


def rotation(t, y, rate):
    return rate * y


def coupled(t, y, args):
    return jnp.asarray(MATRIX) @ y


def at_half(mass=None):
    matrix = MATRIX if mass is None else np.linalg.solve(mass, MATRIX)
    return scipy.linalg.expm(0.5 * matrix) @ np.asarray(START)


@pytest.mark.parametrize("name", few({name: name for name in ADAPTIVE}, *FAST))
def test_value_and_derivative_of_every_implicit_solver(name):
    def loss(rate):
        sol = jo.solve(rotation, START, (0.0, END), rate, solver=name, rtol=1e-6, atol=1e-8)
        return jnp.real(sol.y1[0]), sol.y1

    derivative, y1 = jax.grad(loss, has_aux=True)(RATE)
    exact = START * np.exp(RATE * END)
    assert y1.dtype == jnp.complex128
    np.testing.assert_allclose(y1, exact, rtol=0, atol=1e-4)
    # JAX's derivative of a real part by a complex number, as of the closed form.
    expected = jax.grad(lambda rate: jnp.real(jnp.exp(rate * END)))(RATE)
    assert derivative == pytest.approx(complex(expected), abs=3e-5)


@pytest.mark.parametrize(
    "sensitivity", ["adjoint", "reversible", "forward", jo.Continuous("interpolate")]
)
def test_sensitivities_of_a_coupled_system(sensitivity):
    options = {"solver": "rodas5p", "rtol": 1e-8, "atol": 1e-10, "sensitivity": sensitivity}
    if sensitivity == "reversible":
        options["solver"] = "tsit5"  # implicit steps cannot be undone

    def loss(scale):
        y1 = jo.solve(coupled, scale * START, (0.0, 0.5), **options).y1
        return jnp.sum(jnp.abs(y1) ** 2)

    derivative = (jax.jacfwd if sensitivity == "forward" else jax.grad)(loss)(1.3)
    expected = 2 * 1.3 * np.sum(np.abs(at_half()) ** 2)
    assert derivative == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "linear", [jo.Banded(1, 1), jo.Sparse(np.ones((2, 2), bool)), jo.Krylov(rtol=1e-10)]
)
def test_linear_solvers_and_batches(linear):
    solver = jo.Rodas5P(linear_solver=linear)
    starts = jnp.stack([START, 2 * START, 1j * START])
    sols = jo.solve_batch(coupled, starts, (0.0, 0.5), solver=solver, rtol=1e-8, atol=1e-10)
    expected = np.array([1, 2, 1j])[:, None] * at_half()
    np.testing.assert_allclose(sols.y1, expected, atol=1e-7)


@pytest.mark.parametrize("solver", [jo.Rodas5P, jo.BDF, jo.RadauIIA5])
@pytest.mark.parametrize("jac", [None, lambda t, y: jnp.asarray(MATRIX)])
def test_a_complex_mass_matrix_and_jacobian(solver, jac):
    made = solver(mass=MASS, jac=jac)
    sol = jo.solve(coupled, START, (0.0, 0.5), solver=made, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(sol.y1, at_half(MASS), atol=1e-6)


def test_a_field_that_is_not_holomorphic_with_the_jacobian_of_its_parts():
    """z' = -conj(z) - 40 i Im(z): the real part decays by 1, the imaginary one by 39."""
    field = lambda t, z: -jnp.conj(z) - 40j * jnp.imag(z)  # noqa: E731
    jac = lambda t, z: jnp.diag(jnp.array([-1.0, -39.0]))  # noqa: E731
    for solver in (jo.Kvaerno5(), jo.Kvaerno5(jac=jac)):
        sol = jo.solve(field, jnp.array([1 + 1j]), (0.0, 0.1), solver=solver, rtol=1e-7, atol=1e-9)
        expected = np.exp(-0.1) + 1j * np.exp(-3.9)
        assert complex(sol.y1[0]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_real_leaves_tolerances_events_and_dense_output():
    y0 = {"x": jnp.array([1.0]), "z": jnp.array(1j)}
    field = lambda t, y: {"x": -y["x"], "z": 2j * y["z"]}  # noqa: E731
    event = jo.Event(lambda t, y: jnp.imag(y["z"]), direction="down", terminal=True)
    sol = jo.solve(
        field, y0, (0.0, 3.0), solver="bdf", rtol=1e-8, atol={"x": 1e-10, "z": 1e-9},
        events=event, save="dense",
    )  # fmt: skip
    assert float(sol.stats.t_reached) == pytest.approx(np.pi / 4, abs=1e-5)
    assert sol.y1["x"].dtype == jnp.float64
    assert complex(sol(0.5)["z"]) == pytest.approx(1j * np.exp(1j), abs=1e-5)
    assert complex(sol.y1["z"]) == pytest.approx(-1.0, abs=1e-5)


def test_a_steady_state():
    """z' = (a - z) i - (z - a) decays to a; one invariant is the sum of both components."""
    field = lambda t, z, a: jnp.stack([a * z[1] - z[0], z[0] - a * z[1]])  # noqa: E731
    found = jo.steady_state(field, START, 0.5j, conserved=np.ones(2))
    total = 1 + 1j
    np.testing.assert_allclose(found.y, [total * 0.5j / (1 + 0.5j), total / (1 + 0.5j)], atol=1e-8)


@pytest.mark.parametrize(
    ("solver", "error", "message"),
    [
        (jo.Rodas5P(mass=np.eye(3)), jo.OptionError, r"2 complex components needs .*\(2, 2\)"),
        (jo.Rodas5P(jac=lambda t, y: jnp.eye(3)), jo.FieldError, "2 complex components"),
        (jo.Rodas5P(linear_solver=jo.Banded(2, 2)), jo.OptionError, "matrix of 2 rows"),
        (jo.Rodas5P(linear_solver=jo.Sparse(np.eye(3))), jo.OptionError, "the state has 2"),
    ],
)
def test_what_does_not_fit_names_the_complex_components(solver, error, message):
    with pytest.raises(error, match=message):
        jo.solve(coupled, START, (0.0, 0.5), solver=solver)
