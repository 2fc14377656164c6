"""Log-signatures of any depth: against iterated sums, matrices, and the flow of an equation."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import expm

import jaxode as jo
from jaxode.nn.log_signature import _lyndon_words, log_signature, signature, signature_channels

RNG = np.random.default_rng(5)
STEPS = RNG.normal(size=(5, 2))


def words(letters, length):
    return list(itertools.product(range(letters), repeat=length))


def is_lyndon(word):
    return all(word < word[i:] + word[:i] for i in range(1, len(word)))


def iterated_sum(steps, word):
    """The iterated integral of a piecewise linear path along a word, as a sum over its pieces."""
    total = 0.0
    for pieces in itertools.combinations_with_replacement(range(len(steps)), len(word)):
        term = np.prod([steps[p][c] for p, c in zip(pieces, word, strict=True)])
        repeats = [len(list(group)) for _, group in itertools.groupby(pieces)]
        total += term / math.prod(map(math.factorial, repeats))
    return total


def test_signatures_are_iterated_integrals():
    levels = signature(jnp.asarray(STEPS), 4)
    for length, level in enumerate(levels, 1):
        expected = [iterated_sum(STEPS, word) for word in words(2, length)]
        np.testing.assert_allclose(level, expected, atol=1e-12)


@pytest.mark.parametrize(("letters", "depth"), [(1, 3), (2, 6), (3, 4)])
def test_lyndon_words_are_the_smallest_of_their_rotations(letters, depth):
    found = _lyndon_words(letters, depth)
    for length, own in enumerate(found, 1):
        expected = [i for i, word in enumerate(words(letters, length)) if is_lyndon(word)]
        assert list(own) == expected
    assert signature_channels(letters, depth) == sum(map(len, found))


def test_numbers_of_channels_are_those_of_witts_formula():
    assert [signature_channels(3, depth) for depth in (1, 2, 3, 4)] == [3, 6, 14, 32]
    assert signature_channels(5) == 15
    assert log_signature(np.ones((4, 7, 3)), 3).shape == (4, 14)


def tensor_log(steps, depth):
    """The logarithm of the signature in matrices of a free nilpotent algebra."""
    size = sum(2**k for k in range(depth + 1))
    rows = [word for k in range(depth + 1) for word in words(2, k)]
    place = {word: i for i, word in enumerate(rows)}
    letters = np.zeros((2, size, size))  # each letter appended to a word
    for word, letter in itertools.product(rows, range(2)):
        if len(word) < depth:
            letters[letter, place[word], place[(*word, letter)]] = 1

    def exponential(matrix):
        power, total = np.eye(size), np.eye(size)
        for k in range(1, depth + 1):
            power = power @ matrix / k
            total = total + power
        return total

    product = np.eye(size)
    for step in steps:
        product = product @ exponential(np.einsum("k,kij->ij", step, letters))
    nilpotent, power, logarithm = product - np.eye(size), np.eye(size), np.zeros((size, size))
    for k in range(1, depth + 1):
        power = power @ nilpotent
        logarithm += (-1) ** (k + 1) * power / k
    return {word: logarithm[0, i] for word, i in place.items()}


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_log_signatures_are_the_coefficients_of_lyndon_words(depth):
    logarithm = tensor_log(STEPS, depth)
    lyndon = [w for k in range(1, depth + 1) for w in words(2, k) if is_lyndon(w)]
    found = log_signature(STEPS, depth)
    np.testing.assert_allclose(found, [logarithm[w] for w in lyndon], atol=1e-12)


def test_a_straight_path_has_its_increment_alone():
    steps = jnp.outer(jnp.array([0.3, 1.2, 0.5]), jnp.array([1.0, -2.0, 0.5]))
    found = log_signature(steps, 4)
    np.testing.assert_allclose(found[:3], steps.sum(0), rtol=1e-12)
    np.testing.assert_allclose(found[3:], 0.0, atol=1e-12)


def bracket(p, q):
    return q @ p - p @ q


def test_deeper_log_signatures_are_closer_to_the_flow_of_a_linear_equation():
    # dz = (A dX + B dY) z: the flow is the exponential of the log-signature with the Lie brackets
    # of the words 0, 1, 01, 001 and 011 in place of its components.
    a, b = 0.5 * RNG.normal(size=(2, 3, 3))
    ab = bracket(a, b)
    brackets = np.stack([a, b, ab, bracket(a, ab), bracket(ab, b)])
    steps = 0.3 * RNG.normal(size=(6, 2))
    exact = np.eye(3)
    for step in steps:
        exact = expm(step[0] * a + step[1] * b) @ exact
    errors = []
    for depth in (1, 2, 3):
        found = np.asarray(log_signature(steps, depth))
        flow = expm(np.einsum("k,kij->ij", found, brackets[: found.size]))
        errors.append(np.abs(flow - exact).max())
    assert errors[1] < 0.5 * errors[0] and errors[2] < 0.5 * errors[1]


def test_a_path_has_the_log_signatures_of_its_windows():
    ts, xs = np.arange(7.0), RNG.normal(size=(7, 2))
    path = jax.jit(lambda: jo.nn.LogODE(ts, xs, window=3, depth=3))()
    assert path.knots.tolist() == [0.0, 3.0, 6.0]
    for start in (0, 3):
        expected = log_signature(np.diff(xs[start : start + 4], axis=0), 3) / 3
        np.testing.assert_allclose(path.derivative(start + 1.0), expected, atol=1e-12)


def test_bad_steps_and_depths_are_refused():
    with pytest.raises(jo.DataError, match=r"shape \(..., pieces, channels\), got \(3,\)"):
        log_signature(np.ones(3))
    with pytest.raises(jo.OptionError, match="depth must be an integer of at least 1, got 0"):
        log_signature(STEPS, 0)
    with pytest.raises(jo.OptionError, match="signature_depth"):
        jo.nn.NeuralCDE.mlp(2, 1, control="log_ode", signature_depth=0, key=jax.random.key(0))
