"""The U-Net of ODE blocks: its shapes, what one pixel sees, its training, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo

KEY = jax.random.key(0)
FIXED = {"solver": "midpoint", "dt": 0.5}
IMAGES = jax.random.normal(KEY, (3, 1, 9, 13))


@pytest.fixture(scope="module")
def unet():
    return jo.nn.ODEUNet(1, 2, channels=4, levels=3, key=KEY, **FIXED)


def test_results_have_the_height_and_width_of_the_images(unet):
    logits = unet(IMAGES)
    assert logits.shape == (3, 2, 9, 13)
    assert jnp.all(jnp.isfinite(logits))
    widths = [block.ode.field.convolutions[0].layer.out_channels for block in unet.down_blocks]
    assert widths == [4, 8, 16]


def test_images_do_not_mix_and_may_have_several_batch_axes(unet):
    logits = unet(IMAGES)
    changed = unet(IMAGES.at[0].add(1.0))
    np.testing.assert_array_equal(changed[1:], logits[1:])
    assert not np.allclose(changed[0], logits[0])
    np.testing.assert_allclose(unet(IMAGES[:, None]), logits[:, None], atol=1e-10)


@pytest.mark.slow
def test_it_learns_where_cells_are():
    images, masks = jo.datasets.cells(32, KEY, size=16, noise=0.02)
    model = jo.nn.ODEUNet(1, 2, channels=4, levels=2, key=KEY, **FIXED)

    def loss(model, batch):
        logits = jnp.moveaxis(model(batch[0]), 1, -1)
        entropy = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
        return jnp.mean(entropy), {"right": jnp.mean(jnp.argmax(logits, -1) == batch[1])}

    adam = optax.adam(3e-2)
    _, log = jo.fit(model, (images, masks), loss=loss, steps=60, optimizer=adam, progress=False)
    assert log.loss[-1] < 0.3 * log.loss[0]
    assert jnp.mean(masks == 0) < 0.89  # who finds no cell is right so often
    assert log.history["right"][-1] > 0.94


def test_what_it_refuses(unet):
    with pytest.raises(jo.DataError, match="levels takes images of 4 pixels or more"):
        unet(IMAGES[..., :3])
    with pytest.raises(jo.DataError, match="images of 1 channels, got 2"):
        unet(jnp.ones((3, 2, 8, 8)))
    with pytest.raises(jo.OptionError, match="levels must be an integer of at least 1, got 0"):
        jo.nn.ODEUNet(1, 2, levels=0, key=KEY)
