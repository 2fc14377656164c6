"""Signatures and log-signatures of piecewise linear paths, to any depth."""

import functools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import ArrayLike, Float

from ..problem.errors import DataError
from ..problem.validation import check_count, real_array

# A tensor series without its constant term: level k has shape (..., channels**k).
Levels = list[Array]


def log_signature(
    steps: Float[ArrayLike, "*windows pieces channels"], depth: int = 2
) -> Float[Array, "*windows signature"]:
    """The log-signature of piecewise linear paths.

    **Arguments:** `steps`, the increment of each piece; `depth`, how many times integrals are
    iterated at most.

    **Returns:** the coefficients of the Lyndon words of `depth` letters and fewer, the shorter
    first, those of one length in the order of a dictionary. So for `c` channels the first `c` are
    the increments of the whole, and the next `c (c - 1) / 2` the Levy areas of the pairs (0, 1),
    (0, 2), ..., (1, 2), ...: half the integral of `X_i dX_j - X_j dX_i` from the start.

    **Raises:** `DataError` for steps without an axis of pieces, `OptionError` for another depth.

    Source: Reizenstein and Graham, The iisignature library (2020), arXiv 1802.08252; the product
    with an exponential by Horner's scheme: Kidger and Lyons, Signatory (2021), arXiv 2001.00706.
    """
    depth = check_count("depth", depth)
    steps = jnp.asarray(real_array("steps", steps, DataError))
    if steps.ndim < 2 or 0 in steps.shape[-2:]:
        raise DataError(f"steps must have shape (..., pieces, channels), got {steps.shape}")
    if not jnp.issubdtype(steps.dtype, jnp.floating):
        steps = steps.astype(jnp.result_type(float))
    logarithm = _logarithm(signature(steps, depth))
    words = _lyndon_words(steps.shape[-1], depth)
    chosen = [level[..., np.asarray(own, int)] for level, own in zip(logarithm, words, strict=True)]
    return jnp.concatenate(chosen, axis=-1)


def signature_channels(channels: int, depth: int = 2) -> int:
    """The number of channels of the log-signature of a path of `channels` channels."""
    return sum(len(words) for words in _lyndon_words(channels, depth))


def signature(steps: Float[Array, "*windows pieces channels"], depth: int) -> Levels:
    """The levels 1 to `depth` of the signature of piecewise linear paths."""
    *windows, _, channels = steps.shape
    start = [jnp.zeros((*windows, channels**k), steps.dtype) for k in range(1, depth + 1)]

    def append_piece(levels: Levels, step: Array) -> tuple[Levels, None]:
        return _times_exponential(levels, step), None

    return lax.scan(append_piece, start, jnp.moveaxis(steps, -2, 0))[0]


def _times_exponential(levels: Levels, step: Array) -> Levels:
    """The product of a series, with constant term 1, and the exponential of `step`."""
    product = []
    for k in range(1, len(levels) + 1):
        value = step / k + levels[0]
        for j in range(2, k + 1):
            value = _outer(value, step / (k - j + 1)) + levels[j - 1]
        product.append(value)
    return product


def _logarithm(levels: Levels) -> Levels:
    """The logarithm of a series with constant term 1, `x (1 - x (1/2 - x (1/3 - ...)))`."""
    depth = len(levels)
    constant, series = 1 / depth, [jnp.zeros_like(level) for level in levels]
    for k in range(depth - 1, 0, -1):
        series = [-level for level in _product(levels, constant, series)]
        constant = 1 / k
    return _product(levels, constant, series)


def _product(first: Levels, constant: float, second: Levels) -> Levels:
    """The product of a series without a constant term and one with it."""
    product = []
    for k in range(1, len(first) + 1):
        value = constant * first[k - 1]
        for i in range(1, k):
            value = value + _outer(first[i - 1], second[k - i - 1])
        product.append(value)
    return product


def _outer(a: Array, b: Array) -> Array:
    product = a[..., :, None] * b[..., None, :]
    return product.reshape(*product.shape[:-2], -1)


@functools.cache
def _lyndon_words(letters: int, depth: int) -> tuple[tuple[int, ...], ...]:
    """The Lyndon words of each length up to `depth`, as indices of a level's components."""
    words: list[list[int]] = [[] for _ in range(depth)]
    for word in _duval(letters, depth):
        place = functools.reduce(lambda place, letter: place * letters + letter, word)
        words[len(word) - 1].append(place)
    return tuple(tuple(sorted(own)) for own in words)


def _duval(letters: int, depth: int) -> Iterator[list[int]]:
    """Every Lyndon word up to a length, in the order of a dictionary.

    Source: Duval, Theoretical Computer Science 60 (1988).
    """
    word = [-1]
    while word:
        word[-1] += 1
        yield list(word)
        period = len(word)
        while len(word) < depth:
            word.append(word[-period])
        while word and word[-1] == letters - 1:
            word.pop()
