"""Stiff test problems with reference end values.

Sources of the reference values:

- IVP test set: Mazzia, Magherini, Test Set for IVP Solvers, digits as in CRAN's deTestSet.
- DETEST: Enright, Hull, Lindberg, Comparing numerical methods for stiff systems of ODEs (1975);
  digits of EVALU in ACM TOMS Algorithm 648 (Enright, Pryce 1987).
- exact: a closed form. decimals: `tests/support/decimals.py`, which SciPy's Radau agrees with.
"""

import math

import jax.numpy as jnp
import numpy as np

from tests.support.problems import Reference

ROBERTSON_RATES = (0.04, 1e4, 3e7)


def robertson(t, y, rates):
    a, b, c = y
    slow, back, fast = rates[0] * a, rates[1] * b * c, rates[2] * b**2
    return jnp.stack([back - slow, slow - back - fast, fast])


def hires(t, y, args):
    a, b, c, d, e, f, g, h = y
    bound = 280 * f * h
    return jnp.stack([
        -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
        1.71 * a - 8.75 * b,
        -10.03 * c + 0.43 * d + 0.035 * e,
        8.32 * b + 1.71 * c - 1.12 * d,
        -1.745 * e + 0.43 * (f + g),
        -bound + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
        bound - 1.81 * g,
        1.81 * g - bound,
    ])  # fmt: skip


def oregonator(t, y, args):
    a, b, c = y
    left = b - a * b + a - 8.375e-6 * a**2
    return jnp.stack([77.27 * left, (c - b - a * b) / 77.27, 0.161 * (a - c)])


def van_der_pol(t, y, mu):
    return jnp.stack([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def van_der_pol_rescaled(t, y, epsilon):
    return jnp.stack([y[1], ((1 - y[0] ** 2) * y[1] - y[0]) / epsilon])


POLLUTION_RATES = np.array([
    0.35, 26.6, 1.23e4, 8.6e-4, 8.2e-4, 1.5e4, 1.3e-4, 2.4e4, 1.65e4, 9e3, 0.022, 1.2e4, 1.88,
    1.63e4, 4.8e6, 3.5e-4, 0.0175, 1e8, 4.44e11, 1240.0, 2.1, 5.78, 0.0474, 1780.0, 3.12,
])  # fmt: skip
# What reacts, by number from one, in each reaction, and what of it comes out, how much of each.
REACTIONS = (
    ((1,), {2: 1, 3: 1}), ((2, 4), {1: 1}), ((5, 2), {1: 1, 6: 1}), ((7,), {5: 2, 8: 1}),
    ((7,), {8: 1}), ((7, 6), {5: 1, 8: 1}), ((9,), {5: 1, 8: 1, 10: 1}), ((9, 6), {11: 1}),
    ((11, 2), {1: 1, 10: 1, 12: 1}), ((11, 1), {13: 1}), ((13,), {1: 1, 11: 1}),
    ((10, 2), {1: 1, 14: 1}), ((14,), {5: 1, 7: 1}), ((1, 6), {15: 1}), ((3,), {4: 1}),
    ((4,), {16: 1}), ((4,), {3: 1}), ((16,), {6: 2}), ((16,), {3: 1}), ((17, 6), {5: 1, 18: 1}),
    ((19,), {2: 1}), ((19,), {1: 1, 3: 1}), ((1, 4), {19: 1}), ((19, 1), {20: 1}),
    ((20,), {1: 1, 19: 1}),
)  # fmt: skip


def stoichiometry():
    """By how much each of 25 reactions changes each of 20 species."""
    S = np.zeros((20, 25))
    for k, (left, right) in enumerate(REACTIONS):
        for species in left:
            S[species - 1, k] -= 1
        for species, count in right.items():
            S[species - 1, k] += count
    return S


# Column j of the two is what reacts in reaction j; of one alone, the second is one.
FIRST = np.array([left[0] - 1 for left, _ in REACTIONS])
SECOND = np.array([left[-1] - 1 if len(left) == 2 else 20 for left, _ in REACTIONS])


def pollution(t, y, rates):
    padded = jnp.append(y, 1.0)
    return jnp.sum(stoichiometry() * (rates * padded[FIRST] * padded[SECOND]), axis=1)


def brusselator_1d(t, y, args):
    u, v = y[0::2], y[1::2]
    diffusion = 0.02 * (u.size + 1) ** 2
    reaction = u**2 * v

    def bent(w, end):
        w = jnp.concatenate([jnp.full(1, end), w, jnp.full(1, end)])
        return diffusion * (w[:-2] - 2 * w[1:-1] + w[2:])

    du = 1 + reaction - 4 * u + bent(u, 1.0)
    dv = 3 * u - reaction + bent(v, 3.0)
    return jnp.stack([du, dv], axis=1).reshape(-1)


def linear(t, y, matrix):
    return jnp.sum(jnp.asarray(matrix) * y, axis=1)


def spiral(alpha):
    """The matrix of B2 to B5 of DETEST."""
    A = np.diag([-10.0, -10.0, -4.0, -1.0, -0.5, -0.1])
    A[0, 1], A[1, 0] = alpha, -alpha
    return A


A3 = np.array([[-1e4, 100, -10, 1], [0, -1e3, 10, -10], [0, 0, -1, 10], [0, 0, 0, -0.1]])
B1 = np.array([[-1.0, 1, 0, 0], [-100, -1, 0, 0], [0, 0, -100, 1], [0, 0, -1e4, -100]])


def cascade(t, y, args):
    a, b, c, d = y
    return jnp.stack([
        -a + b**2 + c**2 + d**2, -10 * b + 10 * (c**2 + d**2), -40 * c + 40 * d**2, 2 - 100 * d,
    ])  # fmt: skip


def rising_cascade(t, y, beta):
    a, b, c, d = y
    return jnp.stack([
        2 - a,
        beta * a**2 - 10 * b,
        4 * beta * (a**2 + b**2) - 40 * c,
        10 * beta * (a**2 + b**2 + c**2) - 100 * d,
    ])  # fmt: skip


def reactor(t, y, args):
    a, b, c = y
    return jnp.stack([0.2 * (b - a), 10 * a - (60 - 0.125 * c) * b + 0.125 * c, jnp.ones_like(c)])


def chemistry_d4(t, y, args):
    one, two = -0.013 * y[0] - 1000 * y[0] * y[2], -2500 * y[1] * y[2]
    return jnp.stack([one, two, one + two])


def chemistry_d6(t, y, args):
    one = -y[0] + 1e8 * y[2] * (1 - y[0])
    two = -10 * y[1] + 3e7 * y[2] * (1 - y[1])
    return jnp.stack([one, two, -one - two])


def coupled_e4(t, y, args):
    """A linear system with quadratic terms, seen through a reflection."""
    a, b, c, d = 0.5 * jnp.sum(y) - y
    flow = jnp.stack([-10 * (a + b), 10 * (a - b), 1000 * c, 0.01 * d])
    bent = flow - jnp.stack([(a**2 - b**2) / 2, a * b, c**2, d**2])
    return bent - 0.5 * jnp.sum(bent)


def catalyst(t, y, args):
    a, b, c, d = y
    k = 0.006 * jnp.exp(20.7 - 15000 / a)
    return jnp.stack([
        1.3 * (c - a) + 10400 * k * b,
        1880 * (d - b * (1 + k)),
        1752 - 269 * c + 267 * a,
        0.1 + 320 * b - 321 * d,
    ])  # fmt: skip


def enzymes(t, y, args):
    a, b, c, d, e = y
    one, two = 1e7 * a * b, 1e7 * b * e
    return jnp.stack([
        10 * c - one,
        10 * (c + d) - one - two,
        one - 1.001e4 * c + 1e-3 * d,
        1e4 * c - 10.001 * d + two,
        10 * d - two,
    ])  # fmt: skip


def chemistry_f5(t, y, args):
    one, two = 3e11 * y[0] * y[1], 9e11 * y[0] * y[2]
    gain = one + two - 1.2e8 * y[3]
    return jnp.stack([-gain, 2e7 * y[3] - one, 1e8 * y[3] - two, gain])


def kaps(t, y, stiffness):
    a, b = y
    return jnp.stack([-(stiffness + 2) * a + stiffness * b**2, a - b * (1 + b)])


def heat(t, y, args):
    w = jnp.pad(y, 1)
    return (y.size + 1) ** 2 * (w[:-2] - 2 * w[1:-1] + w[2:])


def heat_modes(t, n=63):
    """Two modes of the semi-discrete heat equation, each of which decays by its own eigenvalue."""
    x = np.arange(1, n + 1) / (n + 1)

    def mode(k):
        rate = 4 * (n + 1) ** 2 * math.sin(k * math.pi / (2 * (n + 1))) ** 2
        return math.exp(-rate * t) * np.sin(k * math.pi * x)

    return tuple((mode(1) + mode(3)).tolist())


# fmt: off
PROBLEMS = (
    Reference(
        "rober", robertson, 1e11, (1.0, 0.0, 0.0),
        (2.083340149701255e-08, 8.333360770334713e-14, 0.999999979166505),
        (1.0, 3.65e-05, 1.0), "IVP test set", ROBERTSON_RATES,
    ),
    Reference(
        "rober_t40", robertson, 40.0, (1.0, 0.0, 0.0),
        (0.7158270687194048, 9.185534764557776e-06, 0.2841637457458298),
        (1.0, 3.65e-05, 0.284), "decimals", ROBERTSON_RATES,
    ),
    Reference(
        "hires", hires, 321.8122, (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0057),
        (0.0007371312573325668, 0.0001442485726316185, 5.888729740967575e-05,
         0.001175651343283149, 0.002386356198831331, 0.006238968252742796, 0.002849998395185769,
         0.002850001604814231),
        (1.0, 0.132, 0.0196, 0.459, 0.186, 0.75, 0.00565, 0.0057), "IVP test set",
    ),
    Reference(
        "orego", oregonator, 360.0, (1.0, 2.0, 3.0),
        (1.000814870318523, 1228.178521549917, 132.0554942846706),
        (118000.0, 1770.0, 31300.0), "IVP test set", floor=1e-6,
    ),
    Reference(
        "vdpolm", van_der_pol, 2000.0, (2.0, 0.0),
        (1.706167732170469, -0.0008928097010248125),
        (2.0, 1330.0), "IVP test set", 1000.0,
    ),
    Reference(
        "vdpol_t2", van_der_pol_rescaled, 2.0, (2.0, 0.0),
        (1.706167732170483, -0.8928097010247975),
        (2.0, 1330000.0), "IVP test set", 1e-6,
    ),
    Reference(
        "pollu", pollution, 60.0, (0.0, 0.2, 0.0, 0.04, 0.0, 0.0, 0.1, 0.3, 0.01, 0.0, 0.0, 0.0,
         0.0, 0.0, 0.0, 0.0, 0.007, 0.0, 0.0, 0.0),
        (0.05646255480022769, 0.1342484130422339, 4.139734331099427e-09, 0.005523140207484359,
         2.018977262302196e-07, 1.464541863493966e-07, 0.07784249118997964, 0.3245075353396018,
         0.007494013383880406, 1.622293157301561e-08, 1.135863833257075e-08, 0.002230505975721359,
         0.000208716288279863, 1.396921016840158e-05, 0.008964884856898295, 4.352846369330103e-18,
         0.006899219696263405, 0.0001007803037365946, 1.772146513969984e-06,
         5.682943292316392e-05),
        (0.0565, 0.2, 4.14e-09, 0.04, 4.38e-07, 5.83e-07, 0.1, 0.325, 0.01, 5.93e-08, 4.28e-08,
         0.00223, 0.000209, 3.03e-05, 0.00896, 3.15e-17, 0.007, 0.000101, 1.77e-06, 5.68e-05),
        "IVP test set", POLLUTION_RATES,
    ),
    Reference(
        "stiff_A1", linear, 20.0, (1.0, 1.0, 1.0, 1.0),
        (4.539992969929191e-05, 2.06115303614992e-09, 2.823006338263857e-56,
         5.235792540515384e-52),
        (1.0, 1.0, 1.0, 1.0), "DETEST A1", np.diag([-0.5, -1.0, -100.0, -90.0]),
    ),
    Reference(
        "stiff_A3", linear, 20.0, (1.0, 1.0, 1.0, 1.0),
        (-0.001353352661867235, 0.01368526917891521, 1.503725348455117, 0.1353352832366099),
        (1.0, 1.0, 7.82, 1.0), "DETEST A3", A3,
    ),
    Reference(
        "stiff_B1", linear, 20.0, (1.0, 0.0, 1.0, 0.0),
        (1.004166730990124e-09, 1.8000232803465e-08, 0.0, -6.042962877027475e-79),
        (1.0, 8.59, 1.0, 32.2), "DETEST B1", B1,
    ),
    Reference(
        "stiff_B4", linear, 20.0, (1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
        (1.331242472678293e-22, -2.325916064237926e-22, 1.517853928534857e-35,
         2.061152428936651e-09, 4.539992963392291e-05, 0.1353352832363442),
        (1.12, 1.0, 1.0, 1.0, 1.0, 1.0), "DETEST B4", spiral(25.0),
    ),
    Reference(
        "stiff_C1", cascade, 20.0, (1.0, 1.0, 1.0, 1.0),
        (0.0004003223925456179, 0.00040016, 4e-4, 0.02),
        (1.02, 1.03, 1.0, 1.0), "DETEST C1",
    ),
    Reference(
        "stiff_C3", rising_cascade, 20.0, (1.0, 1.0, 1.0, 1.0),
        (1.999999997939167, 0.3999999990840744, 0.4159999990793773, 0.4333055990159567),
        (2.0, 1.0, 1.0, 1.0), "DETEST C3", 1.0,
    ),
    Reference(
        "stiff_C5", rising_cascade, 20.0, (1.0, 1.0, 1.0, 1.0),
        (1.999999997938846, 7.999999981678634, 135.9999993817714, 37127.99965967762),
        (2.0, 8.0, 136.0, 37100.0), "DETEST C5", 20.0,
    ),
    Reference(
        "stiff_D1", reactor, 400.0, (0.0, 0.0, 0.0),
        (22.24222010616901, 27.11071334484136, 399.9999999999999),
        (22.2, 27.1, 400.0), "DETEST D1",
    ),
    Reference(
        "stiff_D4", chemistry_d4, 50.0, (1.0, 1.0, 0.0),
        (0.5976546980673215, 1.402343408546138, -1.893386540441913e-06),
        (1.0, 1.4, 3.71e-06), "DETEST D4",
    ),
    Reference(
        "stiff_D6", chemistry_d6, 1.0, (1.0, 0.0, 0.0),
        (0.8523995440749949, 0.1476003981941319, 5.773087333950041e-08),
        (1.0, 0.148, 5.77e-08), "DETEST D6",
    ),
    Reference(
        "stiff_E2", van_der_pol, 10.0, (2.0, 0.0),
        (-1.158701266031984, 0.4304698089780476),
        (2.02, 7.64), "DETEST E2", 5.0,
    ),
    Reference(
        "stiff_E4", coupled_e4, 1000.0, (0.0, -2.0, -1.0, -1.0),
        (19.99999977523654, -20.00000022476345, -2.247634567084293e-07, 2.247634567084293e-07),
        (28.8, 29.5, 15.5, 16.3), "DETEST E4",
    ),
    Reference(
        "stiff_F1", catalyst, 1000.0, (761.0, 0.0, 600.0, 0.1),
        (1211.129474696585, 1.271123619113051e-05, 1208.637804660361, 0.0003241981171933418),
        (1210.0, 0.0835, 1210.0, 0.1), "DETEST F1",
    ),
    Reference(
        "stiff_F3", enzymes, 100.0, (4e-6, 1e-6, 0.0, 0.0, 0.0),
        (3.23591007080668e-13, 2.360679774997897e-07, 7.639319089351045e-14,
         7.639319461070194e-07, 3.236067653908783e-06),
        (4e-6, 1e-6, 3.89e-09, 7.64e-07, 3.24e-06), "DETEST F3, to 4e-12 of each size", floor=1.0,
    ),
    Reference(
        "stiff_F5", chemistry_f5, 100.0, (3.365e-07, 0.008261, 0.001642, 9.38e-06),
        (1.713564284690712e-07, 0.003713563071160676, 0.006189271785267793, 9.54514357153093e-06),
        (3.36e-07, 0.00826, 0.00619, 9.55e-06), "DETEST F5",
    ),
    Reference(
        "kaps", kaps, 1.0, (1.0, 1.0),
        (0.1353352832366127, 0.36787944117144233),
        (1.0, 1.0), "Kaps, exact", 1e8,
    ),
    Reference(
        "heat_mol", heat, 0.05, heat_modes(0.0), heat_modes(0.05), (1.5,) * 63,
        "second differences, exact",
    ),
)
# fmt: on

# The Brusselator in one dimension at t = 10: every 98th of its 1,000 components (IVP test set).
BRUSSELATOR_Y0 = np.stack(
    [1 + 0.5 * np.sin(2 * np.pi * np.arange(1, 501) / 501), np.full(500, 3.0)], axis=1
).reshape(-1)
BRUSSELATOR_Y1 = (
    0.9949197002317599,
    0.7624421042573115,
    0.5971703941198909,
    0.5028179665048467,
    0.4572831793403656,
    0.4427777991494095,
    0.4527530066369863,
    0.4918081185812277,
    0.575814200145376,
    0.7271392249346637,
    0.9495907429372025,
)

BY_NAME = {problem.name: problem for problem in PROBLEMS}
