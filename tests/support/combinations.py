"""Combinations of the options of a solve, on a problem whose every result has a closed form.

Each component obeys y' = k (g - y), with a dose or an event on the way. Which combinations are
refused is in `tests.support.refusals`.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxode as jo
from jaxode.solvers.registry import SOLVERS

OPTIONS: dict[str, tuple[str, ...]] = {
    "solver": (
        "tsit5", "dopri8", "vern7", "bosh3", "heun", "ralston", "rk4", "euler", "rkc2", "rodas5p",
        "rosenbrock23", "kvaerno5", "kencarp4", "trbdf2", "radau", "gauss_legendre4", "bdf",
        "adams", "auto", "reversible_heun",
    ),
    "sensitivity": (
        "discrete", "three states", "stages", "at rest", "adjoint", "backsolve", "interpolate",
        "reversible", "forward",
    ),
    "save": ("ts", "ends", "steps", "dense", "function"),
    "state": ("vector", "scalar", "tree", "complex", "float32"),
    "controller": ("own", "pid", "fixed", "grid"),
    "events": ("none", "passed", "terminal", "dose"),
    "transform": ("none", "vmap", "batch", "scan"),
}  # fmt: skip
DIRECTIONS = {"forwards": 1.0, "backwards": -1.0}
SENSITIVITIES: dict[str, Any] = {
    "three states": jo.Discrete(memory=3),
    "stages": jo.Discrete(memory="stages"),
    "at rest": jo.Discrete(at_rest=True),
    "backsolve": jo.Continuous("backsolve"),
    "interpolate": jo.Continuous("interpolate"),
}
DT, TIMES, MIDDLE = 0.02, np.array([0.0, 0.35, 0.8, 1.2]), 0.6
SCALES = np.array([1.0, 1.05, 0.95])  # of the starts, where a transform solves three problems


@dataclasses.dataclass(frozen=True)
class Combination:
    """One value of each option but the direction; the fields have the names of `OPTIONS`.

    Both directions have one program, whose times are inputs.
    """

    solver: str
    sensitivity: str
    save: str
    state: str
    controller: str
    events: str
    transform: str

    @property
    def name(self) -> str:
        """All values, as the name of a test."""
        return "-".join(dataclasses.astuple(self)).replace(" ", "_")

    @property
    def times(self) -> np.ndarray:
        """The times of the solve, forwards."""
        return TIMES[[0, -1]] if self.save == "ends" else TIMES

    @property
    def dtype(self) -> Any:
        """The dtype of the parameters."""
        return jnp.float32 if self.state == "float32" else jnp.float64

    @property
    def num_reached(self) -> int:
        """How many of the times the solve reaches."""
        return int(np.sum(self.times < MIDDLE)) if self.events == "terminal" else len(self.times)

    @property
    def has_fixed_steps(self) -> bool:
        """Whether the sizes of the steps are given."""
        adaptive = SOLVERS[self.solver]().error_exponent is not None
        return self.controller in ("fixed", "grid") or not adaptive

    @property
    def order(self) -> int:
        """The order of the solve: the first of given steps of a multistep method has order one."""
        multistep = self.solver in ("bdf", "adams") and self.has_fixed_steps
        return 2 if multistep else SOLVERS[self.solver]().order

    @property
    def rtol(self) -> float:
        """The relative and absolute tolerance: one that the order reaches in few steps.

        Along a grid it is that of a backward solve, whose state must come back to the forward one
        to 10,000 tolerances.
        """
        rtol = {1: 1e-4, 2: 1e-5, 3: 1e-6}.get(self.order, 1e-8)
        return max(rtol, 1e-5) if self.state == "float32" else rtol


class KnownProblem:
    """The solve of a combination and its closed form, functions of the same parameters.

    `sign`: 1 forwards in time, -1 backwards.
    """

    def __init__(self, case: Combination, sign: Any = 1.0) -> None:
        self.case, self.sign, self.ts = case, sign, sign * case.times
        self.middle = sign * MIDDLE  # when a dose is given, or an unscaled start has its event
        self.turn = 1.0 + 0.3j if case.state == "complex" else 1.0
        shape = {"scalar": (), "tree": (3,)}.get(case.state, (2,))
        count = int(np.prod(shape, dtype=int))
        numbers = {"y0": np.linspace(1.2, 0.7, count), "k": np.linspace(0.6, 0.9, count)}
        numbers |= {"g": np.linspace(0.3, -0.2, count), "dose": np.full(count, 0.5)}
        self.point = {n: jnp.asarray(x.reshape(shape), case.dtype) for n, x in numbers.items()}
        start = self.point["y0"] * self.turn
        self.level = self.first(self.flow(self.point, start, self.middle))

    # The closed form, on states as arrays.

    def first(self, y: Any) -> Any:
        """What an event looks at: the real part of the first component."""
        return jnp.real(y.reshape(-1)[0])

    def flow(self, p: Any, y: Any, t: Any) -> Any:
        """The state a time `t` after `y`."""
        rest = p["g"] * self.turn
        return rest + (y - rest) * jnp.exp(-p["k"] * t)

    def event_time(self, p: Any, y0: Any) -> Any:
        """When the first component passes its level."""
        rest, rate = p["g"].reshape(-1)[0], p["k"].reshape(-1)[0]
        return -jnp.log((self.level - rest) / (self.first(y0) - rest)) / rate

    def state_at(self, p: Any, y0: Any, t: Any) -> Any:
        """The state at `t`."""
        y = self.flow(p, y0, t)
        if self.case.events != "dose":
            return y
        after = self.flow(p, y0, self.middle) + p["dose"]
        return jnp.where(jnp.abs(t) > MIDDLE, self.flow(p, after, t - self.middle), y)

    def exact(self, p: Any, y0: Any) -> list[Any]:
        """The closed form of what `solved` returns."""
        case, has_event = self.case, self.case.events in ("passed", "terminal")
        meets = self.event_time(p, y0) if has_event else None
        found = [self.state_at(p, y0, meets if case.events == "terminal" else self.ts[-1])]
        if case.save in ("ts", "dense", "function"):
            times = self.ts[: case.num_reached] * (0.9 if case.save == "dense" else 1.0)
            factors = times if case.save == "function" else [1.0] * case.num_reached
            pairs = zip(factors, times, strict=True)
            found.append(jnp.stack([c * self.state_at(p, y0, t) for c, t in pairs]))
        return [*found, meets] if has_event else found

    # The solve.

    def to_state(self, y: Any) -> Any:
        """The state that these numbers are."""
        return {"a": y[:2], "b": y[2]} if self.case.state == "tree" else y

    def numbers(self, state: Any) -> Any:
        """The inverse of `to_state`, of any number of states."""
        if self.case.state != "tree":
            return state
        return jnp.concatenate([state["a"], state["b"][..., None]], -1)

    def options(self) -> dict[str, Any]:
        """The options of the solve."""
        case = self.case
        options: dict[str, Any] = {
            "solver": case.solver,
            "sensitivity": SENSITIVITIES.get(case.sensitivity, case.sensitivity),
            "rtol": case.rtol,
            "atol": case.rtol,
            "save": "ts" if case.save == "ends" else case.save,
            "throw": False,
        }
        if case.save == "function":
            options["save"] = lambda t, y, p: self.numbers(y) * t
        if case.controller == "grid":
            count = round(TIMES[-1] / DT) + 1
            options["controller"] = jo.Grid(self.sign * jnp.linspace(0.0, TIMES[-1], count))
        elif case.has_fixed_steps:
            options["controller"] = jo.Fixed(DT)
        elif case.controller == "pid":
            options["controller"] = jo.PID(pcoeff=0.3, icoeff=0.4)
        if case.events == "dose":
            times = jnp.asarray([self.middle], case.dtype)
            dose = lambda t, y, p: self.to_state(self.numbers(y) + p["dose"])  # noqa: E731
            options["jumps"] = jo.Jumps(times, dose)
        elif case.events != "none":
            passes = lambda t, y, p: self.first(self.numbers(y)) - self.level  # noqa: E731
            options["events"] = jo.Event(passes, terminal=case.events == "terminal")
        return options

    def solve(self, driver: Any, p: Any, y0: Any) -> Any:
        """Solve from `y0`, a state or a batch of them, by `jo.solve` or `jo.solve_batch`."""

        def field(t: Any, y: Any, p: Any) -> Any:
            return self.to_state(p["k"] * (p["g"] * self.turn - self.numbers(y)))

        ts = jnp.asarray(self.ts, self.case.dtype)
        return driver(field, y0, ts, p, **self.options())

    def solved(self, p: Any, y0: Any) -> tuple[list[Any], Any]:
        """What one solve returns: the last state, saved values, the event's time; its status."""
        sol = self.solve(jo.solve, p, self.to_state(y0))
        return self.read(sol, sol.dense, 0), sol.status

    def solved_batch(self, p: Any, y0s: Any) -> tuple[list[Any], Any]:
        """What the solves of a batch return, with trajectories first."""
        sol = self.solve(jo.solve_batch, p, jax.vmap(self.to_state)(y0s))
        return self.read(sol, sol.dense, 1), sol.status

    def read(self, sol: Any, dense: Any, axis: int) -> list[Any]:
        """What is compared of a solution; `axis`: that of the times in its arrays."""
        case, count = self.case, self.case.num_reached
        rows = (slice(None),) * axis
        found = [self.numbers(sol.y1)]
        if case.save == "function":
            found.append(sol.ys[(*rows, slice(count))])
        elif case.save == "ts":
            found.append(self.numbers(sol.ys)[(*rows, slice(count))])
        elif case.save == "dense":
            times = jnp.asarray(self.ts[:count] * 0.9, case.dtype)
            read = lambda dense: dense(times)  # noqa: E731
            found.append(self.numbers((jax.vmap(read) if axis else read)(dense)))
        if case.events in ("passed", "terminal"):
            found.append(sol.events.ts[(*rows, 0)])
        return found

    # The transforms.

    def run(self, p: Any) -> tuple[Any, Any]:
        """What the transformed solve returns, and its statuses."""
        y0, kind = p["y0"] * self.turn, self.case.transform
        y0s = jnp.asarray(SCALES, self.case.dtype).reshape(-1, *[1] * y0.ndim) * y0
        if kind == "none":
            return self.solved(p, y0)
        if kind == "batch":
            return self.solved_batch(p, y0s)
        if kind == "scan":
            return jax.lax.scan(lambda c, y0: (c, self.solved(p, y0)), 0.0, y0s)[1]
        return jax.vmap(lambda y0: self.solved(p, y0))(y0s)

    def run_exact(self, p: Any) -> Any:
        """The closed form of `run`."""
        y0 = p["y0"] * self.turn
        if self.case.transform == "none":
            return self.exact(p, y0)
        return jax.vmap(lambda scale: self.exact(p, scale * y0))(jnp.asarray(SCALES))
