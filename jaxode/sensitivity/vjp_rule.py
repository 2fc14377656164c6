"""Functions with a reverse-mode derivative rule of their own."""

import functools
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

import equinox as eqx
from jaxtyping import PyTree

from ..problem.promotion import with_own_promotion
from .ad_direction import TWICE, forward_mode_only

Args = ParamSpec("Args")
Output = TypeVar("Output")


class VjpRule(Generic[Args, Output]):
    """A function with this reverse-mode derivative by its first argument alone.

    - `forward(perturbed, *args)`: the function's value, and the residuals of the backward pass.
      `perturbed` has the structure of the first argument; True marks a leaf to differentiate by.
    - `backward(perturbed, residuals, cotangents, *args)`: the cotangent of the first argument; a
      leaf that is not perturbed may have any value. `cotangents` are those of the value, None for
      each leaf without one.

    The derivative may be differentiated again in forward mode alone: reverse mode **raises** a
    `DifferentiationError`. The function takes positional arguments.
    """

    def __init__(
        self,
        function: Callable[Args, Output],
        forward: Callable[..., tuple[Any, Any]],
        backward: Callable[..., PyTree],
    ) -> None:
        self.function, self.forward, self.backward = function, forward, backward
        self._rule: Any = eqx.filter_custom_vjp(function)

        @with_own_promotion
        def forward_rule(perturbed: PyTree, *args: Any) -> tuple[Any, Any]:
            value, residuals = forward(perturbed, *args)
            # As residuals, these Python booleans stay static through a jitted gradient.
            return forward_mode_only((value, (residuals, perturbed)), TWICE)

        @with_own_promotion
        def backward_rule(residuals: Any, cotangents: Any, _: PyTree, *args: Any) -> PyTree:
            residuals, perturbed = residuals
            cotangent = backward(perturbed, residuals, cotangents, *args)
            return forward_mode_only(eqx.filter(cotangent, perturbed), TWICE)

        self._rule.def_fwd(forward_rule)
        self._rule.def_bwd(backward_rule)
        functools.update_wrapper(self, function)

    def __call__(self, *args: Args.args, **kwargs: Args.kwargs) -> Output:
        """Evaluate the function."""
        return self._rule(*args, **kwargs)


def with_vjp(
    forward: Callable[..., tuple[Any, Any]], backward: Callable[..., PyTree]
) -> Callable[[Callable[Args, Output]], VjpRule[Args, Output]]:
    """Return a decorator that gives a function this derivative rule; see `VjpRule`."""
    return lambda function: VjpRule(function, forward, backward)
