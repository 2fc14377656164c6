"""A driver outside of `jit`: the user's functions are traced anew, the program for them is kept.

What a solve computes depends on all that the functions it is given read, and Python cannot list
that. So the functions are traced at every call, and a compiled program is found by their traces.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

from ..problem.errors import TimesWarning, warn_user
from ..problem.field import Split, VectorField
from ..problem.partition import Static, partition
from ..problem.programs import Compiled, ProgramKey, kept_program, owner_of
from ..problem.staging import under_jit
from ..problem.state import Packing
from ..problem.survey import is_surveying, surveyed
from ..problem.traced_integers import example, is_example, trace_integers
from ..solvers.implicit.consistent_initial import Algebraic
from ..solvers.prescribed_steps import Fixed, Grid
from .complex_states import solver_of_parts
from .options import check_dt, find_algebraic, find_controller, find_solver
from .prepare import Inputs, Mapped, Options, of_one_trajectory, prepare
from .user_functions import Traces, trace_functions, with_functions, without_functions

_MOST_CHECKED = 1024
# Options that `prepare` has found valid: of these, values alone are checked again.
_checked: set[ProgramKey] = set()


class _Arrays(NamedTuple):
    """The arrays of a call; those in `args`, of traced functions and in the options in lists."""

    y0: PyTree
    ts: Any
    args: list[Any]
    rtol: Any
    atol: Any
    algebraic: Algebraic | None
    consts: list[list[Any]]
    options: list[Any]


def run_driver(
    function: Callable[..., Any], f: VectorField, inputs: Inputs, options: Options, *rest: Any
) -> Any:
    """Return `function(f, prepare(f, inputs, options), *rest)`, compiled unless under `jit`.

    `rest`: pytrees of arrays, and of values that can be hashed.

    **Raises:** what `prepare` and `function` raise. **Warns:** `RecompilationWarning`, and
    `TimesWarning` for functions that read a time which is coarse.
    """
    if inputs.packing.in_parts:
        solver = solver_of_parts(options.solver, inputs.packing)
        options = dataclasses.replace(options, solver=solver)
    if under_jit() and not is_surveying():
        return function(f, prepare(f, inputs, options), *rest)
    option_arrays, static = partition((without_functions(options, inputs), rest))
    form = ProgramKey(function, inputs.packing, isinstance(f, Split), static.key)
    _check(form, f, inputs, options)
    owner = owner_of(f.stiff if isinstance(f, Split) else f)
    args, traces, mapped = _trace(owner, f, inputs, options)
    functions = traces.closed()
    programs = [closed.program for closed in functions]
    if inputs.coarse_time is not None and any(p.reads_first_input for p in programs):
        warn_user(inputs.coarse_time, TimesWarning)
    key = ProgramKey(form, mapped, traces.norm_key(), *programs)
    arrays = _Arrays(
        y0=inputs.y0,
        ts=inputs.ts,
        args=args,
        rtol=inputs.rtol,
        atol=inputs.atol,
        algebraic=find_algebraic(options.solver),
        consts=[closed.consts for closed in functions],
        options=option_arrays,
    )

    def compiled() -> Compiled:
        return Compiled(_Template(function, static, inputs.packing, mapped, traces))

    if is_surveying():
        return surveyed(key, compiled, arrays)
    call = form, programs[0].input_types
    return kept_program(key, owner, call, programs[0], compiled)(arrays)


def _check(form: ProgramKey, f: VectorField, inputs: Inputs, options: Options) -> None:
    """Check all of the options once, and afterwards their values. **Raises:** as `prepare`."""
    if form not in _checked:
        prepare(f, inputs, options)
        if len(_checked) >= _MOST_CHECKED:
            _checked.clear()
        _checked.add(form)
        return
    check_dt(options.dt)
    if isinstance(options.controller, Fixed | Grid):
        solver = find_solver(options.solver)
        find_controller(options.controller, solver, options.dt, inputs.known_ts)
    if getattr(options.solver, "mass", None) is not None:
        options.solver.check(inputs.packing)


def _trace(
    owner: Any, f: VectorField, inputs: Inputs, options: Options
) -> tuple[list[Any], Traces, Mapped | None]:
    """Trace the user's functions; also returns the leaves of `args` that are traced.

    The flags of mapped arguments are those of these leaves.

    **Raises:** `FieldError` and `EventError` if they do not fit the state.
    """
    args, treedef = jax.tree.flatten(inputs.args)

    def trace(needed: frozenset[int]) -> Traces:
        leaves = [x if i in needed else example(x) for i, x in enumerate(args)]
        whole = jax.tree.unflatten(treedef, leaves)
        shapes = of_one_trajectory(inputs.y0, whole, inputs.mapped)
        return trace_functions(f, options, *shapes, inputs.packing)

    traces, needed = trace_integers(owner, args, trace, Traces.closed)
    traced = [i for i, x in enumerate(args) if is_example(x) and i not in needed]
    mapped = inputs.mapped
    if mapped is not None:
        flags = jax.tree.leaves(mapped.args)
        mapped = mapped._replace(args=tuple([flags[i] for i in traced]))
    return [args[i] for i in traced], traces, mapped


class _Template:
    """What a driver computes, without the arrays: it is called with them."""

    def __init__(
        self, function: Callable[..., Any], static: Static, packing: Packing,
        mapped: Mapped | None, traces: Traces,
    ) -> None:  # fmt: skip
        self.function, self.static, self.packing, self.mapped = function, static, packing, mapped
        self.traces = traces.with_consts([[]] * len(traces.closed()))

    def __call__(self, arrays: _Arrays) -> Any:
        """Prepare and solve, while being traced."""
        parts, rest = self.static.join(arrays.options)
        f, options = with_functions(parts, self.traces.with_consts(arrays.consts))
        y0, ts, args, rtol, atol = arrays[:5]
        mapped = self.mapped and self.mapped._replace(args=list(self.mapped.args))
        inputs = Inputs(y0, ts, args, rtol, atol, self.packing, None, mapped)
        prepared = prepare(f, inputs, options)
        if arrays.algebraic is not None:
            prepared = dataclasses.replace(prepared, algebraic=arrays.algebraic)
        return self.function(f, prepared, *rest)
