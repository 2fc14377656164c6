"""Images: the convolution as a product, the block, the classifier, and what they refuse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo
from jaxode.nn.convolution import convolve

KEY = jax.random.key(0)
IMAGES = jax.random.normal(KEY, (6, 1, 8, 8))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": (3, 5), "padding": ((0, 1), (2, 1))},
        {"kernel_size": 1, "use_bias": False},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "dilation": 2, "padding": "SAME"},
        {"kernel_size": 3, "padding": 1, "padding_mode": "CIRCULAR"},
    ],
    ids=str,
)
def test_a_convolution_as_a_product_is_the_convolution(options):
    layer = eqx.nn.Conv2d(2, 3, **options, key=KEY)
    x = jax.random.normal(KEY, (2, 7, 9))
    np.testing.assert_allclose(convolve(layer, x), layer(x), atol=1e-12)


def test_the_field_sees_the_depth_and_keeps_the_shape():
    field = jo.nn.ConvField(4, key=KEY)
    y = jax.random.normal(KEY, (4, 5, 5))
    start, end = jnp.zeros(()), jnp.ones(())
    assert field(start, y).shape == y.shape
    assert not np.allclose(field(start, y), field(end, y))


def test_a_block_can_be_undone_and_images_do_not_mix():
    # The rectifiers' kinks cost an adaptive solver its order, so the tolerance is far below.
    block = jo.nn.ODEBlock(3, augment=1, key=KEY, rtol=1e-11, atol=1e-11)
    x = jax.random.normal(KEY, (4, 3, 4, 4))
    y1 = block(x)
    assert y1.shape == (4, 4, 4, 4)
    back = block.inverse(y1)
    np.testing.assert_allclose(back[:, :3], x, atol=1e-4)
    np.testing.assert_allclose(back[:, 3], 0.0, atol=1e-4)
    np.testing.assert_allclose(block(x[1:2]), y1[1:2], atol=1e-6)


@pytest.mark.slow
def test_gradients_of_the_classifier():
    # Fixed steps: at the kinks of the rectifiers an adaptive solver's steps are noise.
    model = jo.nn.ConvODENet(1, 3, channels=4, key=KEY, solver="midpoint", dt=0.5)
    images, labels = IMAGES[:3], jnp.arange(3)
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)

    @eqx.filter_jit
    def value(arrays):
        logits = eqx.combine(arrays, rest)(images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    gradient = jax.grad(value)(arrays)
    direction = jax.tree.map(lambda x: jax.random.normal(KEY, x.shape), arrays)
    ahead = jax.tree.map(lambda x, d: x + 1e-7 * d, arrays, direction)
    behind = jax.tree.map(lambda x, d: x - 1e-7 * d, arrays, direction)
    slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: jnp.sum(g * d), gradient, direction)))
    np.testing.assert_allclose(slope, (value(ahead) - value(behind)) / 2e-7, rtol=1e-5)


@pytest.mark.slow
def test_it_learns_where_a_square_is():
    corners = jnp.arange(48) % 4
    images = 0.3 * jax.random.normal(KEY, (48, 1, 8, 8))
    place = jnp.zeros((4, 8, 8)).at[0, :4, :4].set(1).at[1, :4, 4:].set(1)
    place = place.at[2, 4:, :4].set(1).at[3, 4:, 4:].set(1)
    model = jo.nn.ConvODENet(1, 4, channels=8, key=KEY, solver="midpoint", dt=0.5)
    _, log = jo.fit(
        model, (images + place[corners, None], corners), loss="cross_entropy", steps=60,
        optimizer=optax.adam(1e-2), progress=False,
    )  # fmt: skip
    assert log.history["accuracy"][0] < 0.6
    assert log.history["accuracy"][-1] > 0.95


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (IMAGES[0], "one image as x.None."),
        (IMAGES[:, 0], r"shape \(batch, channels, height, width\)"),
        (jnp.ones((2, 3, 8, 8)), "images of 1 channels, got 3"),
        (jnp.ones((0, 1, 8, 8)), "images must have shape"),
    ],
)
def test_images_of_the_wrong_rank_are_refused(images, match):
    with pytest.raises(jo.DataError, match=match):
        jo.nn.ConvODENet(1, 3, channels=4, key=KEY)(images)


def test_bad_sizes_are_refused():
    with pytest.raises(jo.OptionError, match="classes must be an integer of at least 1, got 0"):
        jo.nn.ConvODENet(1, 0, key=KEY)
