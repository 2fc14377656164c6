"""Kernels are made for CUDA and for TPUs, on a machine that need not have these."""

import contextlib
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jaxode as jo
from jaxode.kernels.lowering import platform
from tests.support.sweeps import few

# Of JAX 0.12 on. It names no release that would be without it, and no other path takes this kernel.
pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")

RHO = jnp.linspace(0.0, 21.0, 100)
CUDA, TPU = "__gpu$xla.gpu.triton", "tpu_custom_call"
DEVICES = {"cuda": ("NVIDIA H100 80GB HBM3", None, "cuda"), "tpu": ("TPU v5 lite", 1, "tpu")}


def lorenz(t, y, rho):
    x, y, z = y
    return jnp.stack([10.0 * (y - x), x * (rho - z) - y, x * y - 8 / 3 * z])


def exported(function: Any, *inputs: Any, platform: str = "cuda") -> str:
    """The program of `function` for a device that need not be here."""
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in (CUDA, TPU)]
    place = contextlib.nullcontext()
    if jax.__version_info__ >= (0, 11):
        device = jax.sharding.AbstractDevice(*DEVICES[platform])
        mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
        place = jax.sharding.use_abstract_mesh(mesh)
    with place:
        export = jax.export.export(jax.jit(function), platforms=[platform], disabled_checks=checks)
        return export(*inputs).mlir_module()


def ends(args, dtype=jnp.float32, ts: Any = (0.0, 1.0), **options):
    y0 = jnp.array([1.0, 0.2, 0.0], dtype)
    ts = jnp.asarray(ts, dtype)
    axes = (None, None, 0)
    return jo.solve_batch(lorenz, y0, ts, args, in_axes=axes, kernel=True, **options).ys


OPTIONS: dict[str, dict[str, Any]] = {
    "adaptive": {},
    "fixed": {"controller": jo.Fixed(1e-3)},
    "values": {"ts": (0.0, 0.3, 1.0)},
    "dense stages": {"solver": "vern7", "ts": (0.0, 0.3, 1.0)},
    "a linear system": {"solver": "rosenbrock23"},
    "eight stages": {"solver": "rodas5p"},
    "a step kept twice": {"solver": "reversible_heun"},
}


@pytest.fixture(autouse=True)
def _compiled(monkeypatch):
    monkeypatch.setattr(platform, "backend", lambda: "gpu")


@pytest.mark.parametrize(
    ("name", "dtype"),
    few(
        product(OPTIONS, [jnp.float32, jnp.float64]),
        ("values", jnp.float32), ("fixed", jnp.float64), ("a linear system", jnp.float32),
    ),
)  # fmt: skip
def test_a_solve_is_one_kernel_for_cuda(name, dtype):
    text = exported(lambda rho: ends(rho, dtype, **OPTIONS[name]), RHO.astype(dtype))
    assert text.count(f"custom_call @{CUDA}") == 1
    assert "stablehlo.while" not in text


@pytest.mark.parametrize(
    ("name", "sensitivity"),
    few(
        product(["adaptive", "values", "eight stages"], ["discrete", "adjoint"]),
        ("values", "discrete"), ("adaptive", "adjoint"),
    ),
)  # fmt: skip
def test_a_gradient_is_two(name, sensitivity):
    way = jo.Continuous(restarts=0) if sensitivity == "adjoint" else sensitivity

    def loss(rho):
        return jnp.sum(ends(rho, sensitivity=way, **OPTIONS[name]) ** 2)

    text = exported(jax.grad(loss), RHO.astype(jnp.float32))
    assert text.count(f"custom_call @{CUDA}") == 2
    assert "stablehlo.while" not in text


@pytest.mark.parametrize("dtype", few([jnp.float32, jnp.float64], jnp.float32))
def test_a_network_is_one_too_and_its_gradient_two(dtype):
    shapes = (64, 2), (64,), (64, 64), (2, 64)
    weights = [jnp.ones(shape, dtype) for shape in shapes]

    def network(t, y, weights):
        first, bias, second, last = weights
        return last @ jnp.tanh(second @ jnp.tanh(first @ y + bias))

    def loss(weights, y0):
        axes = (0, None, None)
        ts = jnp.asarray((0.0, 1.0), dtype)
        return jnp.sum(jo.solve_batch(network, y0, ts, weights, in_axes=axes, kernel=True).y1)

    for function, kernels in ((loss, 1), (jax.grad(loss), 2)):
        text = exported(function, weights, jnp.ones((100, 2), dtype))
        assert text.count(f"custom_call @{CUDA}") == kernels


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="names no TPU that is not there")
def test_end_states_are_one_kernel_for_a_tpu_and_the_rest_is_refused(monkeypatch):
    monkeypatch.setattr(platform, "backend", lambda: "tpu")
    rho = RHO.astype(jnp.float32)
    with jax.enable_x64(False):  # a TPU has no float64, and knows no 64-bit index
        text = exported(ends, rho, platform="tpu")
    assert text.count(f"custom_call @{TPU}") == 1
    with pytest.raises(jo.OptionError, match="a TPU writes at no index per lane: it has end"):
        ends(rho, ts=(0.0, 0.3, 1.0))
    with pytest.raises(jo.OptionError, match="as a log of steps needs"):
        jax.grad(lambda rho: jnp.sum(ends(rho)))(rho)
