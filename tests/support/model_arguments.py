"""What each model, field and data set needs: arguments that are right."""

from typing import Any

import equinox as eqx
import jax
import numpy as np

import jaxode as jo

KEY = jax.random.key(0)
NET = eqx.nn.MLP(2, 2, 4, 1, key=KEY)
SCALAR = eqx.nn.MLP(2, "scalar", 4, 1, key=KEY)
CONV = {"in_channels": 2, "out_channels": 2, "kernel_size": 3, "key": KEY}


def decay(t: Any, y: Any, args: Any) -> Any:
    """A field."""
    return -y


DENSITIES = (
    "checkerboard", "circles", "eight_gaussians", "moons", "pinwheel", "rings", "swiss_roll",
    "two_spirals",
)  # fmt: skip
PATHS = (
    "LinearInterpolation", "RectilinearInterpolation", "HermiteInterpolation",
    "NaturalCubicSpline", "LogODE",
)  # fmt: skip
# The arguments that each needs, with one that is right.
NEEDED: dict[str, dict[str, Any]] = {
    "cells": {"n_images": 2, "key": KEY},
    "annulus": {"n_points": 4, "key": KEY},
    **{name: {"n_points": 4, "key": KEY} for name in DENSITIES},
    "latent_spirals": {"n_series": 2, "key": KEY},
    "periodic": {"n_series": 2, "key": KEY},
    "spiral_chirality": {"n_series": 2, "key": KEY},
    "simulate": {"system": "lotka_volterra", "key": KEY},
    "Spiral": {},
    "japanese_vowels": {},
    "shop": {"days": 30, "key": KEY},
    "visits": {"n": 3, "days": 30.0, "key": KEY},
    "windows": {"ts": np.arange(6.0), "ys": np.ones((6, 1)), "length": 3},
    "CNF": {"field": NET, "size": 2},
    "FFJORD": {"size": 2, "key": KEY},
    "StandardNormal": {"size": 2},
    "ODERNNEncoder": {"channels": 2, "latent": 2, "key": KEY},
    "RNNEncoder": {"channels": 2, "latent": 2, "key": KEY},
    "RBF": {"n": 3},
    "Chebyshev": {"n": 3},
    "Fourier": {"n": 3},
    "Polynomial": {"n": 3},
    "UDE": {"known": decay, "network": NET},
    "ConcatConv2d": CONV,
    "ConcatSquashConv2d": CONV,
    "GalerkinConv2d": {**CONV, "basis": jo.nn.Polynomial(3)},
    "GalerkinLinear": {
        "in_features": 2, "out_features": 2, "basis": jo.nn.Polynomial(3), "key": KEY,
    },
    "ConcatSquash": {"in_features": 2, "out_features": 2, "key": KEY},
    "ConvexPotential": {"size": 2, "width": 4, "key": KEY},
    "DataControlled": {"network": NET},
    "DepthConcat": {"network": NET},
    "SecondOrder": {"network": NET},
    "HigherOrder": {"network": NET, "order": 2},
    "Dropout": {"p": 0.5, "shape": 2},
    "EnergyStable": {"field": NET, "potential": SCALAR},
    "Gradient": {"potential": SCALAR},
    "Hamiltonian": {"energy": SCALAR},
    "Lagrangian": {"lagrangian": SCALAR},
    "MechanicalLagrangian": {"mass": NET, "potential": SCALAR},
    "PortHamiltonian": {"energy": SCALAR, "size": 2, "key": KEY},
    "Sequential": {"layers": [NET]},
    "SpectralNorm": {"layer": eqx.nn.Linear(2, 2, key=KEY)},
    "TransformerField": {"width": 4, "heads": 2, "hidden": 4, "key": KEY},
    "concat_squash_mlp": {"size": 2, "width": 4, "depth": 1, "key": KEY},
    "GRUODEBayes": {"channels": 2, "hidden": 4, "key": KEY},
    "HyperSolver": {"size": 2, "key": KEY},
    "ConvField": {"channels": 32, "key": KEY},
    "ConvODENet": {"in_channels": 1, "classes": 2, "key": KEY},
    "ODEBlock": {"channels": 32, "key": KEY},
    "ODEUNet": {"in_channels": 1, "out_channels": 2, "key": KEY},
    "LatentODE": {"channels": 2, "latent": 2, "key": KEY},
    "NeuralCDE": {"field": NET, "initial": NET},
    **{name: {"ts": np.arange(4.0), "xs": np.ones((4, 1))} for name in PATHS},
    "NeuralODE": {"field": NET},
    "ODERNN": {"channels": 2, "hidden": 4, "out": 1, "key": KEY},
    "HutchinsonTrace": {},
}  # fmt: skip
