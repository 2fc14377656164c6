"""Non-stiff test problems with reference end values.

Sources of the reference values:

- DETEST: Hull, Enright, Fellen, Sedgwick, Comparing numerical methods for ordinary differential
  equations (1972); digits of EVALU in ACM TOMS Algorithm 648 (Enright, Pryce 1987).
- HNW: Hairer, Norsett, Wanner, Solving Ordinary Differential Equations I (1993).
- IVP test set: Mazzia, Magherini, Test Set for IVP Solvers, digits as in CRAN's deTestSet.
- decimals: extrapolation in 34 digits, by `tests/support/decimals.py`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array


@dataclasses.dataclass(frozen=True)
class Reference:
    """An initial value problem, its state at `t1`, and how large its components become.

    `floor`: what is small of a component, over its size; below it, errors are absolute.
    """

    name: str
    field: Callable[[Array, Array, Any], Array]
    t1: float
    y0: tuple[float, ...]
    y1: tuple[float, ...]
    scale: tuple[float, ...]
    source: str
    args: Any = None
    floor: float = 1e-3

    def error(self, y: Array) -> float:
        """The largest error of `y` at `t1`, in units of each component's size."""
        return float(np.max(np.abs(np.asarray(y) - self.y1) / self.scale))

    def atol(self, rtol: Any) -> Array:
        """The absolute tolerances that go with `rtol`: what it is of a component's floor."""
        return rtol * self.floor * jnp.array(self.scale)

    def excess(self, y: Array, rtol: float) -> float:
        """The largest error of `y` at `t1`, in units of what `rtol` and its `atol` allow."""
        allowed = self.atol(rtol) + rtol * np.abs(self.y1)
        return float(np.max(np.abs(np.asarray(y) - self.y1) / allowed))


def predator_prey(t, y, args):
    hare, lynx = y
    return jnp.stack([2 * hare * (1 - lynx), lynx * (hare - 1)])


def rigid_body(t, y, args):
    a, b, c = y
    return jnp.stack([b * c, -a * c, -0.51 * a * b])


def kepler(t, y, args):
    position, velocity = jnp.split(y, 2)
    return jnp.concatenate([velocity, -position * jnp.sum(position**2) ** -1.5])


def bessel(t, y, args):
    s = t + 1
    return jnp.stack([y[1], -y[1] / s - (1 - 0.25 / s**2) * y[0]])


def van_der_pol(t, y, args):
    return jnp.stack([y[1], (1 - y[0] ** 2) * y[1] - y[0]])


def lotka_volterra(t, y, args):
    product = y[0] * y[1]
    return jnp.stack([1.5 * y[0] - product, product - 3 * y[1]])


def brusselator(t, y, args):
    reaction = y[0] ** 2 * y[1]
    return jnp.stack([1 + reaction - 4 * y[0], 3 * y[0] - reaction])


def pleiades(t, y, args):
    places, velocities = y[:14].reshape(2, 7), y[14:]
    gaps = places[:, None, :] - places[:, :, None]
    cubed = (jnp.sum(gaps**2, axis=0) + jnp.eye(7)) ** 1.5
    pull = jnp.sum(gaps * jnp.arange(1.0, 8.0) / cubed, axis=-1)
    return jnp.concatenate([velocities, pull.reshape(-1)])


def arenstorf(t, y, args):
    moon = 0.012277471
    earth = 1 - moon
    x, z, u, v = y
    far = ((x + moon) ** 2 + z**2) ** 1.5
    near = ((x - earth) ** 2 + z**2) ** 1.5
    along = x + 2 * v - earth * (x + moon) / far - moon * (x - earth) / near
    across = z - 2 * u - earth * z / far - moon * z / near
    return jnp.stack([u, v, along, across])


def lorenz(t, y, args):
    a, b, c = y
    return jnp.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c])


# fmt: off
PROBLEMS = (
    Reference(
        "predator_prey", predator_prey, 20.0, (1.0, 3.0),
        (0.6761876008576667, 0.1860816099640036), (4.25, 3.0), "DETEST B1",
    ),
    Reference(
        "rigid_body", rigid_body, 20.0, (0.0, 1.0, 1.0),
        (-0.9396570798729192, -0.3421177754000779, 0.7414126596199957), (0.993, 1.0, 1.0),
        "DETEST B5",
    ),
    Reference(
        "kepler", kepler, 20.0, (0.9, 0.0, 0.0, 1.1055415967851334),
        (0.2198835352008397, 0.9427076846341813, -0.9787659841058176, 0.3287977990962036),
        (1.06, 0.991, 1.0, 1.11), "DETEST D1, eccentricity 0.1",
    ),
    Reference(
        "kepler_eccentric", kepler, 20.0, (0.5, 0.0, 0.0, 1.7320508075688776),
        (-0.5780432953035362, 0.8633840009194192, -0.9595083730380727, -0.0650491512671209),
        (1.5, 0.866, 1.15, 1.73), "DETEST D3, eccentricity 0.5",
    ),
    Reference(
        "bessel", bessel, 20.0, (0.6713967071418031, 0.09540051444747454),
        (0.1456723600728308, -0.09883500195574063), (0.677, 0.473), "DETEST E1",
    ),
    Reference(
        "van_der_pol", van_der_pol, 20.0, (2.0, 0.0),
        (2.008149762174948, -0.04250887527320057), (2.01, 2.68), "DETEST E2",
    ),
    Reference(
        "lotka_volterra", lotka_volterra, 10.0, (1.0, 1.0),
        (1.0263447675750894, 0.9096910781360417), (6.9, 4.58), "decimals",
    ),
    Reference(
        "brusselator", brusselator, 20.0, (1.5, 3.0),
        (0.49863707126834783, 4.596780349452011), (3.75, 4.72), "HNW (16.12), digits by decimals",
    ),
    Reference(
        "pleiades", pleiades, 3.0,
        (3.0, 3.0, -1.0, -3.0, 2.0, -2.0, 2.0, 3.0, -3.0, 2.0, 0.0, 0.0, -4.0, 4.0,
         0.0, 0.0, 0.0, 0.0, 0.0, 1.75, -1.5, 0.0, 0.0, 0.0, -1.25, 1.0, 0.0, 0.0),
        (0.3706139143970502, 3.237284092057233, -3.222559032418324, 0.659709145577531,
         0.3425581707156584, 1.562172101400631, -0.7003092922212495, -3.943437585517392,
         -3.27138097397255, 5.225081843456543, -2.59061243497747, 1.198213693392275,
         -0.2429682344935824, 1.09144924042898, 3.417003806314313, 1.354584501625501,
         -2.590065597810775, 2.025053734714242, -1.155815100160448, -0.8072988170223021,
         0.595239635420871, -3.74124496123401, 0.377345968575063, 0.9386858869551074,
         0.3667922227200571, -0.347404635380849, 2.344915448180937, -1.947020434263292),
        (3.0, 3.24, 3.22, 3.0, 2.0, 2.0, 2.0, 3.94, 3.34, 5.23, 2.67, 2.38, 4.0, 4.0,
         19.6, 2.78, 7.54, 2.29, 5.8, 2.15, 2.24, 11.1, 3.98, 11.5, 1.25, 5.7, 2.94, 3.7),
        "IVP test set",
    ),
    Reference(
        "arenstorf", arenstorf, 17.065216560157964, (0.994, 0.0, 0.0, -2.0015851063790824),
        (0.994, 0.0, 0.0, -2.0015851063790824), (1.24, 1.14, 1.19, 2.0), "HNW (0.1), periodic",
    ),
    Reference(
        "lorenz", lorenz, 1.0, (1.0, 0.0, 0.0),
        (-9.408450567056036, -9.09619907118648, 28.58162762439234), (19.8, 27.7, 48.4), "decimals",
    ),
)
# fmt: on

BY_NAME = {problem.name: problem for problem in PROBLEMS}
