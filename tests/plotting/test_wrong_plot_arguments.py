"""Wrong values of every argument of the figures, as of the functions of `jo`."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from matplotlib import pyplot

import jaxode as jo
from tests.support.wrong_arguments import (
    COUNTS,
    POSITIVE,
    faults_of,
    parameters_of,
    public_functions,
)

X, LABELS, TS = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), np.array([0, 1, 1]), np.arange(7.0)
NETWORK = eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0))
# Which of the wrong values an argument takes, by function and name.
TAKES: dict[tuple[str, str], set[str]] = {
    ("flow", "y"): {"None"},
    ("flow", "times"): {"None", "pair", "seven numbers"},
    ("flow", "ax"): {"None"},
    ("phase_portrait", "field"): {"one argument"},
    ("decision_boundary", "model"): {"one argument", "vector"},
    ("phase_portrait", "xlim"): {"pair"},
    ("phase_portrait", "ylim"): {"pair"},
    ("phase_portrait", "trajectories"): {"empty list", "empty dict"},
    ("phase_portrait", "ax"): {"None"},
    ("phase_portrait", "density"): POSITIVE,
    ("decision_boundary", "ax"): {"None"},
    ("decision_boundary", "margin"): {"0"} | POSITIVE,
    ("density", "model"): {"vector"},  # which compiles; its shape is refused
    ("density", "X"): {"None"},
    ("density", "ax"): {"None"},
    ("density", "xlim"): {"None", "pair"},
    ("density", "ylim"): {"None", "pair"},
    ("density", "margin"): {"0"} | POSITIVE,
    ("animate_flow", "y"): {"None"},
    ("animate_flow", "path"): {"None"},
    ("animate_flow", "ax"): {"None"},
    ("animate_flow", "times"): {"None", "pair", "seven numbers"},
    ("animate_flow", "pause"): {"0"} | COUNTS,
    ("animate_flow", "back"): {"True"},
    ("animate_flow", "fps"): {"1"},
    ("animate_flow", "dpi"): {"1"},
    ("forecast", "ts"): {"seven numbers"},
    ("forecast", "truth"): {"seven numbers"},
    ("forecast", "prediction"): {"None"},
    ("forecast", "split"): {"None", "0", "1", "0.5"},
    ("forecast", "baselines"): {"None", "empty dict"},
    ("forecast", "ax"): {"None"},
    ("forecast", "label"): {"string"},
    ("forecast", "band"): {"None"},
    ("forecast", "quantiles"): set(),
}
NEEDED: dict[str, dict[str, Any]] = {
    "flow": {"model": jo.NeuralODE(NETWORK), "X": X},
    "density": {"model": NETWORK, "X": X},
    "animate_flow": {"model": jo.NeuralODE(NETWORK), "X": X},
    "phase_portrait": {"field": NETWORK, "xlim": (0.0, 1.0), "ylim": (0.0, 1.0)},
    "decision_boundary": {"model": NETWORK, "X": X, "y": LABELS},
    "forecast": {"ts": TS, "truth": TS},  # a band needs a prediction: test_plotting.py
}
# Each compiles or draws: an argument of its own would be tried by drawing.
DRAWN = {"resolution": {"huge"}}


@pytest.mark.parametrize("name", public_functions(jo.plotting, set()))
def test_wrong_values_raise_errors_of_jaxode_before_a_compilation(name):
    figure: Callable[..., Any] = getattr(jo.plotting, name)
    taken = {
        argument: TAKES.get((name, argument), set()) | DRAWN.get(argument, set())
        for argument in parameters_of(figure)
    }
    faults = faults_of(name, figure, NEEDED[name], taken)
    pyplot.close("all")
    assert not faults, "\n".join(faults)
