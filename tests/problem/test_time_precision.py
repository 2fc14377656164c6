"""Times that float32 rounds visibly: refused where they become equal, else warned of."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from jaxode.nn.series import prepare_series

T = 1.7e9


def rest(t, y, args):
    return 0 * y


def solve(ts, f=rest, **options):
    return jo.solve(f, jnp.ones((), jnp.float32), ts, **options)


@pytest.fixture
def float32():
    with jax.enable_x64(False):
        yield


def close(gap):
    return np.append(0.0, 864_000.03 + gap * np.arange(4))


def test_times_that_become_equal_are_refused(float32):
    with pytest.raises(jo.TimesError, match=r"ts \d and \d, 0.01 apart at 864000.* are equal in f"):
        solve(close(0.01))
    with pytest.raises(jo.TimesError, match=r"jumps \d and \d, 0.01 apart"):
        solve((0.0, 1e6), jumps=close(0.01)[1:])
    with pytest.raises(jo.TimesError, match=r"grid times \d and \d, 0.01 apart"):
        grid = jo.Grid(np.append(close(0.01), 1e6))
        solve((0.0, 1e6), solver="rk4", controller=grid)
    with pytest.raises(jo.TimesError, match="are equal in float32"):
        jo.solve_batch(rest, jnp.ones(2, jnp.float32), np.stack([close(1.0), close(0.01)]),
                       in_axes=(0, 0, None))  # fmt: skip
    with pytest.raises(jo.TimesError, match="are equal in float32"):
        jax.jit(lambda y0: jo.solve(rest, y0, close(0.01)).y1)(jnp.ones((), jnp.float32))


def test_coarse_times_are_warned_of(float32):
    with pytest.warns(jo.TimesWarning, match=r"0.1 apart at 864000.* are 0.125 apart in float32"):
        solve(close(0.1))
    with pytest.warns(jo.TimesWarning, match=r"jumps \d and \d, 0.1 apart"):
        solve((0.0, 1e6), jumps=close(0.1))


def test_integers_that_float64_cannot_hold():
    nanoseconds = 1_700_000_000_000_000_001 + np.arange(3)
    with pytest.raises(jo.TimesError, match="are equal in float64"):
        jo.solve(rest, jnp.ones(()), nanoseconds)


def test_digits_lost_before_the_solve_are_warned_of(float32):
    with pytest.warns(jo.TimesWarning, match="given in float32, whose numbers are 128 apart"):
        solve(jnp.array([T, T + 60]))
    with pytest.warns(jo.TimesWarning, match="given in float32, whose numbers are 64 apart"):
        solve(jnp.array([1e9, 1e9 + 512]))


def test_series_of_models_are_checked():
    xs = np.ones((1, 5, 1), np.float32)
    with pytest.raises(jo.TimesError, match=r"ts \d and \d, 0.01 apart"):
        prepare_series(close(0.01), xs)
    with pytest.warns(jo.TimesWarning, match=r"ts \d and \d, 0.1 apart"):
        prepare_series(close(0.1), xs)


@pytest.mark.parametrize("enabled", [True, False])
def test_what_is_no_loss_is_no_warning(enabled):
    with jax.enable_x64(enabled), warnings.catch_warnings():
        warnings.simplefilter("error")
        reads = lambda t, y, args: 0 * t * y  # noqa: E731
        solve((0.0, 1e30), f=reads, max_steps=100)
        solve((5.0, 5.0), f=reads)
        solve(np.linspace(0, 1, 1001), f=reads)
        solve((100.0, 101.0), f=reads)
        # Two ways to compute one time.
        solve((0.0, 0.3, 0.1 + 0.2, 1.0), f=reads)
        # Times that no function reads.
        solve((T, T + 60))
        jo.solve(rest, jnp.ones((), jnp.bfloat16), (0.0, 1.0), rtol=0.1, atol=0.1)


def test_a_bad_field_is_named_at_far_times(float32):
    def wide(t, y, args):
        return jnp.ones(3)

    with pytest.raises(jo.FieldError, match=r"^wide\(t, y, args\) has shape"):
        solve((T, T + 1), f=wide)
