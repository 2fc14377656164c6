"""Stiff test problems with reference end values, from the IVP test set as `problems` quotes it."""

import jax.numpy as jnp
from problems import Reference


def robertson(t, y, args):
    a, b, c = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return jnp.stack([b - a, a - b - c, c])


def hires(t, y, args):
    r = 280.0 * y[5] * y[7]
    return jnp.stack(
        [
            -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
            1.71 * y[0] - 8.75 * y[1],
            -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
            8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
            -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
            -r + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
            r - 1.81 * y[6],
            1.81 * y[6] - r,
        ]
    )


def van_der_pol(t, y, args):
    return jnp.stack([y[1], 1000.0 * (1.0 - y[0] ** 2) * y[1] - y[0]])


# fmt: off
STIFF = (
    Reference(
        "robertson", robertson, 1e11, (1.0, 0.0, 0.0),
        (2.083340149701255e-08, 8.333360770334713e-14, 0.999999979166505),
        (2.08e-8, 8.33e-14, 1.0), "IVP test set",
    ),
    Reference(
        "hires", hires, 321.8122, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057),
        (0.0007371312573325668, 0.0001442485726316185, 5.888729740967575e-05,
         0.001175651343283149, 0.002386356198831331, 0.006238968252742796,
         0.002849998395185769, 0.002850001604814231),
        (1.0, 0.132, 0.0196, 0.459, 0.186, 0.75, 0.00565, 0.0057), "IVP test set",
    ),
    Reference(
        "van_der_pol", van_der_pol, 2000.0, (2.0, 0.0),
        (1.706167732170469, -0.0008928097010248125), (2.0, 1330.0), "IVP test set",
    ),
)
# fmt: on
