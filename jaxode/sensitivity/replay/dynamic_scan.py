"""A scan over a number of steps known at run time, with derivatives of every order and mode.

JAX differentiates `lax.scan` as often as one likes, but over a fixed number of steps, and
`lax.while_loop` in forward mode alone. This primitive is closed under its rules: its tangents are
one more scan over the recorded states, and the transpose of that is a scan in reverse.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import ShapedArray
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jaxtyping import PyTree

from ...problem.closure import closure_convert
from ...problem.promotion import with_own_promotion

Arrays = Sequence[Any]


class Form(NamedTuple):
    """The form of a scan: numbers of constants, carries and xs, rows, direction.

    `recorded`: so many of the last `ys` are carries.
    """

    sizes: tuple[int, int, int]
    length: int
    reverse: bool
    recorded: int


# `(consts, carry, xs)` to `(carry, ys)`, all flat lists of arrays.
FlatStep = Callable[[list[Any], list[Any], list[Any]], tuple[Arrays, Arrays]]


def dynamic_scan(
    step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], carry: PyTree, xs: PyTree, count: Array
) -> tuple[PyTree, PyTree]:
    """Return the last carry and all `ys` of `carry, y = step(carry, x)` over `count` rows of `xs`.

    As `lax.scan`; rows of `ys` from `count` on are zero. `step` may capture arrays. Under `vmap`
    each carry stays as it is from its own count on: the step must be finite there for every row.
    """
    carry, row = jax.tree.map(_strong, carry), jax.tree.map(_row, xs)

    def typed(carry: PyTree, x: PyTree) -> tuple[PyTree, PyTree]:
        following, y = step(carry, x)
        same = jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), following, carry)
        return same, jax.tree.map(jnp.asarray, y)

    closed, shapes = closure_convert(typed, carry, row, users=False)
    carry_leaves, carry_def = jax.tree.flatten(carry)
    x_leaves, x_def = jax.tree.flatten(xs)

    def flat(consts: list[Any], values: list[Any], rows: list[Any]) -> tuple[Arrays, Arrays]:
        traced = dataclasses.replace(closed, consts=consts)
        inputs = jax.tree.unflatten(carry_def, values), jax.tree.unflatten(x_def, rows)
        following, y = traced(*inputs)
        return jax.tree.leaves(following), jax.tree.leaves(y)

    consts = [jnp.asarray(c) for c in closed.consts]
    found, ys = _bind(flat, count, consts, carry_leaves, x_leaves, False)
    return jax.tree.unflatten(carry_def, found), jax.tree.unflatten(
        jax.tree.structure(shapes[1]), ys
    )


def _row(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


def _bind(
    step: FlatStep,
    count: Any,
    consts: Arrays,
    carry: Arrays,
    xs: Arrays,
    reverse: bool,
    recorded: int = 0,
) -> tuple[list[Any], list[Any]]:
    """Trace `step`, which captures nothing, and bind the primitive.

    `recorded`: so many of the last `ys` are carries, which are never masked by zeros.
    """
    sizes = len(consts), len(carry), len(xs)
    length = xs[0].shape[0]

    def flat(*values: Any) -> list[Any]:
        carry, ys = step(*_split(values, sizes))
        return [*carry, *ys]

    shapes = [jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)) for x in (*consts, *carry)]
    shapes += [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in xs]
    program = jax.make_jaxpr(flat)(*shapes)
    found = _dynamic_scan.bind(
        count, *consts, *carry, *xs, program=program,
        form=Form(sizes, length, reverse, recorded),
    )  # fmt: skip
    return found[: len(carry)], found[len(carry) :]


def _split(values: Arrays, sizes: Sequence[int]) -> list[list[Any]]:
    """Cut a list into parts of these sizes."""
    parts, start = [], 0
    for size in sizes:
        parts.append(list(values[start : start + size]))
        start += size
    return parts


def _strong(x: Any) -> Array:
    return lax.convert_element_type(x, jnp.result_type(x))


@with_own_promotion
def _run(count: Array, *values: Array, program: ClosedJaxpr, form: Form) -> list[Array]:
    sizes, length, reverse, _ = form
    consts, carry, xs = _split(values, sizes)
    step = jaxpr_as_fun(program)
    ys = [jnp.zeros((length, *x.shape), x.dtype) for x in program.out_avals[sizes[1] :]]

    def body(state: tuple[Array, list[Array], list[Array]]) -> tuple[Array, list, list]:
        i, carry, ys = state
        place = count - 1 - i if reverse else i
        rows = [lax.dynamic_index_in_dim(x, place, keepdims=False) for x in xs]
        out = step(*consts, *carry, *rows)
        pairs = zip(ys, out[sizes[1] :], strict=True)
        ys = [lax.dynamic_update_index_in_dim(b, y, place, 0) for b, y in pairs]
        return i + 1, list(out[: sizes[1]]), ys

    start = jnp.zeros_like(count), carry, ys
    _, carry, ys = lax.while_loop(lambda s: s[0] < count, body, start)
    return [*carry, *ys]


@with_own_promotion
def _avals(count: Any, *values: Any, program: ClosedJaxpr, form: Form) -> list[ShapedArray]:
    sizes, length, _, _ = form
    carry, ys = program.out_avals[: sizes[1]], program.out_avals[sizes[1] :]
    rows = [ShapedArray((length, *y.shape), y.dtype) for y in ys]
    return [*(ShapedArray(x.shape, x.dtype) for x in carry), *rows]


@with_own_promotion
def _jvp(
    primals: Arrays, tangents: Arrays, *, program: ClosedJaxpr, form: Form
) -> tuple[list[Any], list[Any]]:
    """The scan with the carries recorded, and one over their tangents."""
    sizes, _, reverse, _ = form
    count, step = primals[0], jaxpr_as_fun(program)
    consts, carry, xs = _split(primals[1:], sizes)
    of_consts, of_carry, of_xs = _split(tangents[1:], sizes)
    moving = [jnp.issubdtype(x.dtype, jnp.inexact) for x in carry]
    moving_ys = [jnp.issubdtype(y.dtype, jnp.inexact) for y in program.out_avals[sizes[1] :]]

    def recorded(consts: list, carry: list, rows: list) -> tuple[Arrays, Arrays]:
        out = step(*consts, *carry, *rows)
        return out[: sizes[1]], [*out[sizes[1] :], *carry]

    carry1, found = _bind(recorded, count, consts, carry, xs, reverse, sizes[1])
    ys, carries = found[: len(found) - sizes[1]], found[len(found) - sizes[1] :]
    const_is, x_is = ([type(t) is not ad.Zero for t in ts] for ts in (of_consts, of_xs))
    given_consts = [t for t in of_consts if type(t) is not ad.Zero]
    given_xs = [t for t in of_xs if type(t) is not ad.Zero]
    given_carry = [
        jnp.zeros_like(x) if type(t) is ad.Zero else t
        for x, t, m in zip(carry, of_carry, moving, strict=True)
        if m
    ]
    inner = len(consts), len(given_consts)

    def pushed(consts: list, rates: list, rows: list) -> tuple[Arrays, Arrays]:
        values, of_consts = _split(consts, inner)
        x, before, of_xs = _split(rows, (len(xs), sizes[1], len(given_xs)))
        flags = [*const_is, *moving, *x_is]
        point, moved = [*values, *before, *x], [*of_consts, *rates, *of_xs]
        places = [i for i, flag in enumerate(flags) if flag]

        def of_moving(*arrays: Any) -> Arrays:
            inputs = list(point)
            for i, array in zip(places, arrays, strict=True):
                inputs[i] = array
            return step(*inputs)

        out = jax.jvp(of_moving, [point[i] for i in places], moved)[1]
        following = [t for t, m in zip(out[: sizes[1]], moving, strict=True) if m]
        return following, [t for t, m in zip(out[sizes[1] :], moving_ys, strict=True) if m]

    rows = [*xs, *carries, *given_xs]
    last, pushed_ys = _bind(pushed, count, [*consts, *given_consts], given_carry, rows, reverse)
    found_rates = iter([*last, *pushed_ys])
    results = [*carry1, *ys]
    flags = [*moving, *moving_ys]
    return results, [
        next(found_rates) if flag else ad.Zero(jax.typeof(x).to_tangent_aval())
        for x, flag in zip(results, flags, strict=True)
    ]


@with_own_promotion
def _transpose(
    cotangents: Arrays, count: Array, *values: Any, program: ClosedJaxpr, form: Form
) -> list[Any]:
    """The scan of a linear step, transposed: the other way round, over the step's transpose.

    A known carry is a tangent of zero, since all that are inexact are carried.
    """
    sizes, length, reverse, _ = form
    step = jaxpr_as_fun(program)
    consts, carry, xs = _split(values, sizes)
    linear = [[ad.is_undefined_primal(v) for v in part] for part in (consts, carry, xs)]
    wanted, linear[1] = linear[1], [True] * sizes[1]
    known_consts, known_xs = (
        [v for v, flag in zip(part, flags, strict=True) if not flag]
        for part, flags in ((consts, linear[0]), (xs, linear[2]))
    )
    shapes = [
        jax.ShapeDtypeStruct(a.shape, a.dtype)
        for a, flag in zip(program.in_avals, itertools.chain(*linear), strict=True)
        if flag
    ]
    num_linear = [sum(flags) for flags in linear]
    outputs = [ad.instantiate_zeros(a) for a in cotangents]

    def pulled(consts: list, carry: list, rows: list) -> tuple[Arrays, Arrays]:
        of_carry, sums = _split(carry, (sizes[1], num_linear[0]))
        known_rows, of_ys = rows[: len(known_xs)], rows[len(known_xs) :]

        def of_linear(*arrays: Any) -> Arrays:
            parts = _split(arrays, num_linear)
            merged = [
                *_merged(linear[0], parts[0], consts),
                *parts[1],
                *_merged(linear[2], parts[2], known_rows),
            ]
            return step(*merged)

        found = jax.linear_transpose(of_linear, *shapes)([*of_carry, *of_ys])
        of_consts, of_carry, of_xs = _split(found, num_linear)
        return [*of_carry, *map(jnp.add, sums, of_consts)], of_xs

    sums = [
        jnp.zeros(v.aval.shape, v.aval.dtype)
        for v, flag in zip(consts, linear[0], strict=True)
        if flag
    ]
    start = [*outputs[: sizes[1]], *sums]
    # Without any row, the length is that of the cotangents of `ys`.
    rows = [*known_xs, *outputs[sizes[1] :]] or [jnp.zeros(length)]
    found, of_xs = _bind(pulled, count, known_consts, start, rows, not reverse)
    of_carry = [x if w else None for x, w in zip(found[: sizes[1]], wanted, strict=True)]
    of_consts = _merged(linear[0], found[sizes[1] :], [None] * sizes[0])
    return [None, *of_consts, *of_carry, *_merged(linear[2], of_xs, [None] * sizes[2])]


def _merged(flags: Sequence[bool], where: Arrays, elsewhere: Arrays) -> list[Any]:
    """One list from two: of the first where a flag holds."""
    first, second = iter(where), iter(elsewhere)
    return [next(first) if flag else next(second) for flag in flags]


@with_own_promotion
def _batch(
    values: Arrays, axes: Sequence[int | None], *, program: ClosedJaxpr, form: Form
) -> tuple[list[Any], list[int]]:
    """The scan of all, over the largest count; each keeps its carry from its own count on."""
    sizes, length, reverse, recorded = form
    step = jaxpr_as_fun(program)
    size = next(x.shape[a] for x, a in zip(values, axes, strict=True) if a is not None)
    counts = values[0] if axes[0] is None else jnp.moveaxis(values[0], axes[0], 0)
    total = counts if axes[0] is None else jnp.max(counts)
    consts, carry, xs = _split(values[1:], sizes)
    const_axes, carry_axes, x_axes = _split(axes[1:], sizes)
    consts = [
        c if a is None else jnp.moveaxis(c, a, 0) for c, a in zip(consts, const_axes, strict=True)
    ]
    carry = [
        jnp.broadcast_to(c, (size, *c.shape)) if a is None else jnp.moveaxis(c, a, 0)
        for c, a in zip(carry, carry_axes, strict=True)
    ]
    xs = [x if a is None else jnp.moveaxis(x, a, 1) for x, a in zip(xs, x_axes, strict=True)]
    in_axes = [None if a is None else 0 for a in const_axes]
    in_axes += [0] * len(carry) + [None if a is None else 0 for a in x_axes]
    each = jax.vmap(lambda *v: step(*v), in_axes, axis_size=size)

    def batched(consts: list, carry: list, rows: list) -> tuple[Arrays, Arrays]:
        out = each(*consts[1:], *carry, *rows[1:])
        following, ys = out[: sizes[1]], out[sizes[1] :]
        if axes[0] is None:
            return following, ys
        runs = rows[0] < consts[0]

        def keep(new: Array, old: Array | int) -> Array:
            return jnp.where(runs.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        own = len(ys) - recorded
        masked = [keep(y, jnp.zeros_like(y)) for y in ys[:own]]
        return [*map(keep, following, carry)], [*masked, *ys[own:]]

    places = jnp.arange(length, dtype=counts.dtype)
    inputs = [counts, *consts], carry, [places, *xs]
    found, ys = _bind(batched, total, *inputs, reverse, recorded)
    return [*found, *ys], [0] * len(found) + [1] * len(ys)


_dynamic_scan = Primitive("dynamic_scan")
_dynamic_scan.multiple_results = True
_dynamic_scan.def_impl(jax.jit(_run, static_argnames=("program", "form")))
_dynamic_scan.def_abstract_eval(_avals)
mlir.register_lowering(_dynamic_scan, mlir.lower_fun(_run, multiple_results=True))
batching.primitive_batchers[_dynamic_scan] = _batch
ad.primitive_jvps[_dynamic_scan] = _jvp
ad.primitive_transposes[_dynamic_scan] = _transpose
