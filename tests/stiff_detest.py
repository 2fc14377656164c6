"""The stiff DETEST problems with reference end values.

Enright, Hull, Lindberg, Comparing numerical methods for stiff systems of ODEs, BIT 15 (1975); the
digits are those of EVALU in ACM TOMS Algorithm 648 (Enright, Pryce 1987).
"""

import functools

import jax.numpy as jnp
from problems import Reference


def linear_real(t, y, args):
    return jnp.array([-0.5, -1.0, -100.0, -90.0]) * y


def linear_fast(t, y, args):
    a, b, c, d = y
    return jnp.stack(
        [
            -1e4 * a + 100 * b - 10 * c + d,
            -1e3 * b + 10 * c - 10 * d,
            -c + 10 * d,
            -0.1 * d,
        ]
    )


def linear_turning(t, y, args):
    a, b, c, d = y
    return jnp.stack([b - a, -100 * a - b, d - 100 * c, -1e4 * c - 100 * d])


def linear_far_turning(t, y, args, turn=25.0):
    a, b, c, d, e, f = y
    return jnp.stack([turn * b - 10 * a, -turn * a - 10 * b, -4 * c, -d, -0.5 * e, -0.1 * f])


def coupled_one_way(t, y, args):
    a, b, c, d = y
    return jnp.stack(
        [
            -a + b**2 + c**2 + d**2,
            -10 * b + 10 * (c**2 + d**2),
            -40 * c + 40 * d**2,
            -100 * d + 2,
        ]
    )


def coupled(t, y, args, strength=1.0):
    a, b, c, d = y
    return jnp.stack(
        [
            2 - a,
            strength * a**2 - 10 * b,
            4 * strength * (a**2 + b**2) - 40 * c,
            10 * strength * (a**2 + b**2 + c**2) - 100 * d,
        ]
    )


coupled_strongly = functools.partial(coupled, strength=20.0)


def reactor(t, y, args):
    a, b, c = y
    heat = 0.125 * c
    return jnp.stack([0.2 * (b - a), 10 * a - (60 - heat) * b + heat, jnp.ones_like(c)])


def chemistry(t, y, args):
    a, b, c = y
    lost, spent = 0.013 * a + 1000 * a * c, 2500 * b * c
    return jnp.stack([-lost, -spent, -lost - spent])


def chemistry_fast(t, y, args):
    a, b, c = y
    lost, spent = a - 1e8 * c * (1 - a), 10 * b - 3e7 * c * (1 - b)
    return jnp.stack([-lost, -spent, lost + spent])


def van_der_pol(t, y, args):
    return jnp.stack([y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0]])


def rotated(t, y, args):
    a, b, c, d = 0.5 * jnp.sum(y) - y
    curve = jnp.stack([0.5 * (a**2 - b**2), a * b, c**2, d**2])
    pull = jnp.stack([-10 * (a + b), 10 * (a - b), 1000 * c, 0.01 * d])
    return pull - curve + 0.5 * jnp.sum(curve - pull)


def catalyst(t, y, args):
    gas, inside, wall, feed = y
    rate = 6e-3 * jnp.exp(20.7 - 15000 / gas)
    return jnp.stack(
        [
            1.3 * (wall - gas) + 10400 * rate * inside,
            1880 * (feed - inside * (1 + rate)),
            1752 - 269 * wall + 267 * gas,
            0.1 + 320 * inside - 321 * feed,
        ]
    )


def enzyme(t, y, args):
    a, b, c, d, e = y
    first, second = 1e7 * a * b, 1e7 * b * e
    return jnp.stack(
        [
            10 * c - first,
            10 * (c + d) - first - second,
            first - 1.001e4 * c + 1e-3 * d,
            1e4 * c - 10.001 * d + second,
            10 * d - second,
        ]
    )


def ions(t, y, args):
    a, b, c, d = y
    first, second = 3e11 * a * b, 9e11 * a * c
    return jnp.stack(
        [1.2e8 * d - first - second, 2e7 * d - first, 1e8 * d - second, first + second - 1.2e8 * d]
    )


# fmt: off
DETEST = (
    Reference(
        "linear_real", linear_real, 20.0, (1.0, 1.0, 1.0, 1.0),
        (4.539992969929191e-05, 2.06115303614992e-09, 2.823006338263857e-56, 5.235792540515384e-52),
        (1, 1, 1, 1), "stiff DETEST A1",
    ),
    Reference(
        "linear_fast", linear_fast, 20.0, (1.0, 1.0, 1.0, 1.0),
        (-0.001353352661867235, 0.01368526917891521, 1.503725348455117, 0.1353352832366099),
        (1, 1, 7.82, 1), "stiff DETEST A3",
    ),
    Reference(
        "linear_turning", linear_turning, 20.0, (1.0, 0.0, 1.0, 0.0),
        (1.004166730990124e-09, 1.8000232803465e-08, 0.0, -6.042962877027475e-79),
        (1, 8.59, 1, 32.2), "stiff DETEST B1",
    ),
    Reference(
        "linear_far_turning", linear_far_turning, 20.0, (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        (1.331242472678293e-22, -2.325916064237926e-22, 1.517853928534857e-35,
         2.061152428936651e-09, 4.539992963392291e-05, 0.1353352832363442),
        (1.12, 1, 1, 1, 1, 1), "stiff DETEST B4",
    ),
    Reference(
        "coupled_one_way", coupled_one_way, 20.0, (1.0, 1.0, 1.0, 1.0),
        (0.0004003223925456179, 0.00040016, 0.0004, 0.02),
        (1.02, 1.03, 1, 1), "stiff DETEST C1",
    ),
    Reference(
        "coupled", coupled, 20.0, (1.0, 1.0, 1.0, 1.0),
        (1.999999997939167, 0.3999999990840744, 0.4159999990793773, 0.4333055990159567),
        (2, 1, 1, 1), "stiff DETEST C3",
    ),
    Reference(
        "coupled_strongly", coupled_strongly, 20.0, (1.0, 1.0, 1.0, 1.0),
        (1.999999997938846, 7.999999981678634, 135.9999993817714, 37127.99965967762),
        (2, 8, 136, 37100.0), "stiff DETEST C5",
    ),
    Reference(
        "reactor", reactor, 400.0, (0.0, 0.0, 0.0),
        (22.24222010616901, 27.11071334484136, 399.9999999999999),
        (22.2, 27.1, 400), "stiff DETEST D1",
    ),
    Reference(
        "chemistry", chemistry, 50.0, (1.0, 1.0, 0.0),
        (0.5976546980673215, 1.402343408546138, -1.893386540441913e-06),
        (1, 1.4, 3.71e-06), "stiff DETEST D4",
    ),
    Reference(
        "chemistry_fast", chemistry_fast, 1.0, (1.0, 0.0, 0.0),
        (0.8523995440749949, 0.1476003981941319, 5.773087333950041e-08),
        (1, 0.148, 5.77e-08), "stiff DETEST D6",
    ),
    Reference(
        "van_der_pol", van_der_pol, 10.0, (2.0, 0.0),
        (-1.158701266031984, 0.4304698089780476),
        (2.02, 7.64), "stiff DETEST E2",
    ),
    Reference(
        "rotated", rotated, 1000.0, (0.0, -2.0, -1.0, -1.0),
        (19.99999977523654, -20.00000022476345, -2.247634567084293e-07, 2.247634567084293e-07),
        (28.8, 29.5, 15.5, 16.3), "stiff DETEST E4",
    ),
    Reference(
        "catalyst", catalyst, 1000.0, (761.0, 0.0, 600.0, 0.1),
        (1211.129474696585, 1.271123619113051e-05, 1208.637804660361, 0.0003241981171933418),
        (1210.0, 0.0835, 1210.0, 0.1), "stiff DETEST F1",
    ),
    Reference(
        "enzyme", enzyme, 100.0, (4e-06, 1e-06, 0.0, 0.0, 0.0),
        (3.23591007080668e-13, 2.360679774997897e-07, 7.639319089351045e-14,
         7.639319461070194e-07, 3.236067653908783e-06),
        (4e-06, 1e-06, 3.89e-09, 7.64e-07, 3.24e-06), "stiff DETEST F3",
    ),
    Reference(
        "ions", ions, 100.0, (3.365e-07, 0.008261, 0.001642, 9.38e-06),
        (1.713564284690712e-07, 0.003713563071160676, 0.006189271785267793, 9.54514357153093e-06),
        (3.36e-07, 0.00826, 0.00619, 9.55e-06), "stiff DETEST F5",
    ),
)
# fmt: on
