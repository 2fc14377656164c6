"""What has no kernel: refused by name where it was asked for, run without one where it was not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.kernels import dispatch
from tests.support.sweeps import few

Y0 = jnp.ones((3, 2))


def decay(t, y, args):
    return -y


def sorting(t, y, args):
    return -jnp.sort(y)


def calling(t, y, args):
    return jax.pure_callback(np.negative, y, y)


def printing(t, y, args):
    jax.debug.print("{}", t)
    return -y


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an operation": ({"f": sorting}, r"'sort' has no rule there \(test_kernel_input.py:\d+\)"),
    "a call to the host": ({"f": calling}, r"'pure_callback' has no rule there \(test_kernel_inp"),
    "a print": ({"f": printing}, r"does more than compute \(test_kernel_input.py:\d+\)"),
    "a random key": ({"args": jax.random.key(0)}, "an array of key<"),
    "an iteration": ({"solver": "kvaerno5"}, "Kvaerno5 iterates: .*rodas5p"),
    "a history": ({"solver": "adams"}, "Adams keeps a history"),
    "stages": ({"solver": "rkc2"}, "RKC2 takes more stages in some steps"),
    "another matrix": (
        {"solver": jo.Rodas5P(linear_solver=jo.Banded(1, 1))},
        "Banded is for large systems",
    ),
    "a large state": ({"y0": jnp.ones((3, 99))}, "a state of 99 numbers is too large .at most 32"),
    "a large system": (
        {"y0": jnp.ones((3, 13)), "solver": "rodas5p"},
        "a state of an implicit solver of 13 numbers is too large",
    ),
    "weights": ({"args": jnp.ones(300)}, "300 numbers that all share are too many"),
    "complex": ({"y0": Y0 + 1j}, "a state of complex128"),
    "float16": ({"y0": Y0.astype(jnp.float16), "rtol": 0.1}, "a state of float16"),
    "dense": ({"save": "dense"}, 'save="dense" is not written'),
    "steps": ({"save": "steps"}, 'save="steps" is not written'),
    "events": ({"events": jo.Event(lambda t, y, args: y[0])}, "events and jumps are not"),
    "jumps": ({"jumps": [0.5]}, "events and jumps are not"),
    "steps made again": (
        {"sensitivity": jo.Continuous("interpolate")},
        r'jo.Continuous\("interpolate"\) makes the steps of the solve again',
    ),
    "an adjoint of many times": (
        {"sensitivity": jo.Continuous(restarts=0), "ts": jnp.linspace(0.0, 1.0, 17)},
        "the adjoint jumps at 17 times .at most 16",
    ),
    "an adjoint of a large state": (
        {"sensitivity": jo.Continuous(restarts=0), "y0": jnp.ones((3, 17))},
        "a state of 34 numbers is too large",
    ),
    "forward": ({"sensitivity": "forward"}, r"jo.Forward\(\) has none"),
    "reversible": ({"sensitivity": "reversible"}, r"jo.Reversible\(\) has none"),
    "memory": ({"sensitivity": jo.Discrete(memory=9)}, r"Discrete\(memory=...\) is for"),
    "progress": ({"progress": True}, "progress= calls the host"),
}


def solve(f=decay, y0: Any = Y0, ts: Any = (0.0, 1.0), args: Any = None, **options):
    return jo.solve_batch(f, y0, ts, args, in_axes=(0, None, None), **options)


@pytest.mark.parametrize("name", REFUSED)
def test_a_kernel_that_cannot_be_is_refused_by_name(name):
    options, message = REFUSED[name]
    with pytest.raises(jo.OptionError, match=f"kernel=True, but there is no kernel.*{message}"):
        solve(kernel=True, **options)


@pytest.mark.parametrize(
    "name", few(["an operation", "an iteration", "weights", "forward"], "an operation", "forward")
)
def test_auto_runs_without_one_and_says_why(name, monkeypatch):
    options, _ = REFUSED[name]
    monkeypatch.setattr(
        dispatch.KernelPolicy, "use_kernel", property(lambda self: bool(self.kernel))
    )
    sol = solve(kernel="auto", **options)
    assert sol.stats.engine.startswith("xla: ")
    np.testing.assert_allclose(sol.y1, solve(kernel=False, **options).y1, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "size"), few([({}, 72), ({"solver": "rodas5p"}, 40)], ({}, 72))
)
def test_auto_leaves_states_that_fit_no_registers(options, size, monkeypatch):
    monkeypatch.setattr(
        dispatch.KernelPolicy, "use_kernel", property(lambda self: bool(self.kernel))
    )
    y0 = jnp.ones((3, size // 8))
    assert solve(y0=y0[:, 1:], **options).stats.engine == "kernel"
    engine_of = solve(y0=y0, **options).stats.engine
    assert engine_of == f"xla: a state of {size} bytes does not pay there"
    assert solve(y0=y0, kernel=True, **options).stats.engine == "kernel"


def test_auto_takes_a_kernel_on_a_gpu_alone(monkeypatch):
    auto = dispatch.find_kernel_policy("auto", None)
    monkeypatch.setattr(dispatch, "MEASURED_ON_GPU", True)
    assert not auto.use_kernel
    assert solve(kernel="auto").stats.engine == "xla"
    monkeypatch.setattr(dispatch.platform, "backend", lambda: "gpu")
    assert auto.use_kernel
    assert not dispatch.find_kernel_policy(False, None).use_kernel


@pytest.mark.parametrize("kernel", ["yes", None, 1])
def test_kernel_is_auto_or_a_boolean(kernel):
    with pytest.raises(jo.OptionError, match='kernel must be "auto", True or False, got'):
        solve(kernel=kernel)


def test_gradients_by_times_are_refused():
    with pytest.raises(jo.OptionError, match="gradients by ts are not taken there"):
        jax.grad(lambda t: jnp.sum(solve(ts=jnp.array([0.0, t]), kernel=True).y1))(1.0)


@pytest.mark.slow
def test_auto_takes_gradients_in_tiles_that_no_kernel_has(monkeypatch):
    monkeypatch.setattr(
        dispatch.KernelPolicy, "use_kernel", property(lambda self: bool(self.kernel))
    )

    def loss(t, kernel):
        return jnp.sum(solve(ts=jnp.array([0.0, t]), kernel=kernel).y1 ** 2)

    run = jax.jit(jax.grad(loss), static_argnums=1)
    slopes = [run(1.0, kernel) for kernel in ("auto", False)]
    np.testing.assert_allclose(*slopes, rtol=1e-12)


@pytest.mark.slow
def test_an_index_whose_gradient_has_no_kernel(monkeypatch):
    monkeypatch.setattr(
        dispatch.KernelPolicy, "use_kernel", property(lambda self: bool(self.kernel))
    )

    def field(t, y, args):
        return -y.at[(y[0] > 0.5).astype(int)].get(mode="fill") * y

    def loss(y0, kernel):
        return jnp.sum(solve(field, y0, kernel=kernel).y1 ** 2)

    run = jax.jit(jax.grad(loss), static_argnums=1)
    slopes = [run(Y0, kernel) for kernel in ("auto", False)]
    np.testing.assert_allclose(*slopes, rtol=1e-10)
    with pytest.raises(jo.OptionError, match="writing at an index that differs"):
        jax.grad(loss)(Y0, True)
