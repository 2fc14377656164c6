"""Keeping what surrounds a loop in the loop's own native function."""

from collections.abc import Callable
from typing import TypeVar

import jax.numpy as jnp
from jax import lax

State = TypeVar("State")


def in_one_piece(function: Callable[[State], State], state: State) -> State:
    """`function(state)`, inside a loop of one turn.

    On a CPU, XLA (from JAX 0.12 on) makes a small loop, with all that is in it, one native
    function; every operation outside is a kernel of its own, which costs a microsecond to launch
    and ten milliseconds to compile. A short solve has as many operations around its loop as in it.
    """
    # Behind the barrier XLA does not see that there is one turn, and so leaves the loop alone.
    begin = lax.optimization_barrier(jnp.asarray(True))

    def turn(carry: tuple) -> tuple:
        return jnp.zeros_like(carry[0]), function(carry[1])

    return lax.while_loop(lambda carry: carry[0], turn, (begin, state))[1]
