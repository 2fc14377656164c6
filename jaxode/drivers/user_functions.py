"""The functions that a user gives to a driver: traced, and put back into field and options."""

from collections.abc import Hashable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from ..integrate.events.compiled import trace_event, trace_indexed
from ..integrate.events.event import Event, Jumps
from ..integrate.events.options import check_jumps
from ..problem.closure import ClosedFunction
from ..problem.field import Split, VectorField, trace_field
from ..problem.programs import value_key
from ..problem.state import Packing
from ..problem.validation import python_int
from .options import trace_jacobian, trace_norm, trace_save, with_jac
from .prepare import Inputs, Options


class Traces(NamedTuple):
    """The user's functions, traced; of a batch, for one trajectory.

    `field` has one part or two. `events` holds a pair `(condition, apply)` for each `jo.Event`.
    `norms` are the user's error norms, forwards and backwards, which are traced where they are
    called: here they serve as a key.
    """

    field: tuple[ClosedFunction, ...]
    save: ClosedFunction | None
    jac: ClosedFunction | None
    events: tuple[tuple[ClosedFunction, ClosedFunction | None] | None, ...]
    jump_map: ClosedFunction | None
    norms: tuple[ClosedFunction | None, ...]

    def closed(self) -> list[ClosedFunction]:
        """All of them but the norm."""
        return jax.tree.leaves(self._replace(norms=()), is_leaf=_is_closed)

    def with_consts(self, consts: list[list[Any]]) -> "Traces":
        """The functions, without the norm, with other constants."""
        functions, treedef = jax.tree.flatten(self._replace(norms=()), is_leaf=_is_closed)
        replaced = [ClosedFunction(c, f.program) for c, f in zip(consts, functions, strict=True)]
        return jax.tree.unflatten(treedef, replaced)

    def norm_key(self) -> Hashable:
        """What identifies the norms: their programs and the values of their constants."""
        return tuple(n and (n.program, *map(value_key, n.consts)) for n in self.norms)


def _is_closed(x: Any) -> bool:
    return isinstance(x, ClosedFunction)


def trace_functions(
    f: VectorField, options: Options, y0: PyTree, args: PyTree, packing: Packing
) -> Traces:
    """Trace the functions at a state and arguments, or their shapes; the options are valid.

    **Raises:** `FieldError` and `EventError` if they do not fit the state.
    """
    field: Any = trace_field(f, y0, args, packing)
    events = [
        trace_event(event, y0, args, packing) if isinstance(event, Event) else None
        for event in as_tuple(options.events)
    ]
    controllers = options.controller, getattr(options.sensitivity, "controller", None)
    jump_map = options.jumps.apply if isinstance(options.jumps, Jumps) else None
    return Traces(
        field=(field.stiff, field.other) if isinstance(f, Split) else (field,),
        save=trace_save(options.save, y0, args, packing) if callable(options.save) else None,
        jac=trace_jacobian(options.solver, y0, args, packing),
        events=tuple(e if e is None else (e.condition, e.apply) for e in events),
        jump_map=trace_indexed("jo.Jumps", jump_map, y0, args, packing),
        norms=tuple(trace_norm(controller, packing) for controller in controllers),
    )


def without_functions(options: Options, inputs: Inputs) -> tuple[Any, ...]:
    """The options without functions, as a pytree whose numbers are arrays where they are traced.

    A norm is left in: it is a static part of its controller.

    **Raises:** `TimesError` for invalid jumps.
    """
    solver, save = options.solver, options.save
    if getattr(solver, "jac", None) is not None:
        solver = with_jac(solver, None)
    return (
        _number(options.dt),
        jax.tree.map(_number, options.controller),
        solver,
        options.sensitivity,
        tuple([_form_of(event) for event in as_tuple(options.events)]),
        _jump_form(options.jumps, inputs),
        None if callable(save) else save,
        python_int(options.max_events),
        options.overflow,
        python_int(options.max_steps),
        options.progress,
        options.unsaved,
    )


def with_functions(parts: tuple[Any, ...], traces: Traces) -> tuple[VectorField, Options]:
    """The field and the options, with traced functions in the place of those of the user."""
    dt, controller, solver, sensitivity, forms, jumps, save, *counts = parts
    if traces.jac is not None:
        solver = with_jac(solver, traces.jac)
    events = [
        Event(pair[0], form.direction, pair[1], form.terminal) if pair else form
        for form, pair in zip(forms, traces.events, strict=True)
    ]
    if isinstance(jumps, _JumpForm):
        jumps = Jumps(jumps.times, traces.jump_map, jumps.saved, jumps.ends)
    max_events, overflow, max_steps, progress, unsaved = counts
    options = Options(
        solver=solver, rtol=None, atol=None, dt=dt, controller=controller,
        save=traces.save or save, sensitivity=sensitivity, events=tuple(events), jumps=jumps,
        max_events=max_events, overflow=overflow, max_steps=max_steps, progress=progress,
        unsaved=unsaved,
    )  # fmt: skip
    return Split(*traces.field) if len(traces.field) == 2 else traces.field[0], options


class _EventForm(NamedTuple):
    """A `jo.Event` without its functions."""

    direction: Any
    terminal: bool | int
    applies: bool


class _JumpForm(NamedTuple):
    """`jo.Jumps` without its function."""

    times: Any
    applies: bool
    saved: Any = "before"
    ends: Any = "both"


def as_tuple(events: Any) -> tuple[Any, ...]:
    """The events of the option `events`, whatever it is."""
    if events is None:
        return ()
    return tuple(events) if isinstance(events, list | tuple) else (events,)


def _form_of(event: Any) -> Any:
    if not isinstance(event, Event):
        return event
    return _EventForm(event.direction, event.terminal, event.apply is not None)


def _jump_form(jumps: Any, inputs: Inputs) -> Any:
    times = check_jumps(jumps, inputs.packing, inputs.count)
    if times is None:
        return None
    if not isinstance(jumps, Jumps):
        return _JumpForm(times, False)
    return _JumpForm(times, jumps.apply is not None, jumps.saved, jumps.ends)


def _number(x: Any) -> Any:
    """A number of Python, or one of JAX that has its type, as an array."""
    known = isinstance(x, jax.Array) and not isinstance(x, Tracer)
    weak = known and getattr(x, "weak_type", False)  # a key has no such attribute
    return np.asarray(x, float) if weak or type(x) in (int, float) else x
