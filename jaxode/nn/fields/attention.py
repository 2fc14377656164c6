"""The ODE transformer: a transformer block as a vector field."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from ...problem.errors import FieldError, OptionError
from ...problem.validation import check_counts, check_key


class TransformerField(eqx.Module):
    """A field whose time derivative of the tokens is the update of a pre-norm transformer block.

    An Euler step of length 1 is the usual block: attention, then a network of one hidden layer
    (GELU) per token, both applied to normalised tokens and added to them. The state has shape
    `(tokens, width)`. `args` is None or a boolean mask, True where attention is allowed: of shape
    `(tokens,)`, where the other tokens are padding and constant, or `(tokens, tokens)`, from row
    (query) to column (key), as for causal attention.

    **Arguments:**

    - `width`: features of a token, a multiple of `heads`.
    - `heads`: of the attention.
    - `hidden`: width of the network's hidden layer.

    **Raises:** `OptionError` for sizes that do not fit; called, `FieldError` for a mask or a state
    of another shape.

    Source: Li et al., ODE transformer (2022), arXiv 2203.09176.
    """

    attention: eqx.nn.MultiheadAttention
    network: eqx.nn.MLP
    norms: tuple[eqx.nn.LayerNorm, eqx.nn.LayerNorm]
    width: int = eqx.field(static=True)

    def __init__(self, width: int, heads: int, hidden: int, *, key: Array) -> None:
        sizes = {"width": width, "heads": heads, "hidden": hidden}
        width, heads, hidden = check_counts("TransformerField", **sizes)
        if width % heads:
            raise OptionError(
                f"TransformerField: width must be a multiple of heads, got {width} and {heads}"
            )
        first, second = jax.random.split(check_key(key))
        self.width = width
        self.attention = eqx.nn.MultiheadAttention(heads, width, key=first)
        self.network = eqx.nn.MLP(width, width, hidden, 1, activation=jax.nn.gelu, key=second)
        self.norms = eqx.nn.LayerNorm(width), eqx.nn.LayerNorm(width)

    def __call__(
        self, t: Array, y: Float[Array, "tokens width"], args: Bool[Array, "..."] | None = None
    ) -> Float[Array, "tokens width"]:
        """The time derivative of the tokens."""
        if y.ndim != 2 or y.shape[1] != self.width:
            raise FieldError(
                f"TransformerField: the state has shape (tokens, {self.width}), got {y.shape}"
            )
        mask, not_padding = _mask(args, y.shape[0])
        normed = jax.vmap(self.norms[0])(y)
        attended = self.attention(normed, normed, normed, mask=mask)
        derivative = attended + jax.vmap(lambda token: self.network(self.norms[1](token)))(
            y + attended
        )
        return derivative if not_padding is None else jnp.where(not_padding[:, None], derivative, 0)


def _mask(args: Array | None, tokens: int) -> tuple[Array | None, Array | None]:
    """The attention mask, and the mask of tokens that are not padding, each or None."""
    if args is None:
        return None, None
    if not _is_boolean(args) or args.shape not in ((tokens,), (tokens, tokens)):
        raise FieldError(
            f"TransformerField: args must be None or a boolean mask of shape ({tokens},) or "
            f"({tokens}, {tokens}), got {getattr(args, 'dtype', type(args).__name__)} of shape "
            f"{jnp.shape(args)}"
        )
    if args.ndim == 2:
        return args, None
    return jnp.broadcast_to(args, (tokens, tokens)), args


def _is_boolean(args: Any) -> bool:
    return isinstance(args, Array | np.ndarray) and args.dtype.kind == "b"
