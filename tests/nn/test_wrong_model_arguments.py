"""Wrong values of every argument of models, fields and data sets, as of the functions of `jo`."""

from collections.abc import Callable
from typing import Any

import pytest

import jaxode as jo
from tests.support.model_arguments import NEEDED
from tests.support.wrong_arguments import (
    CALLABLE,
    COUNTS,
    POSITIVE,
    faults_of,
    parameters_of,
    public_functions,
)

FUNCTION = CALLABLE - {"class"}
LESS_THAN_ONE = {"0", "0.5"}
FLAG = frozenset({"True"})
NOT_NEGATIVE = {"0"} | POSITIVE
TIME = {"0", "1", "-1", "0.5", "huge"}
# Which of the wrong values an argument takes, by its name.
TAKES: dict[str, Any] = {
    **dict.fromkeys(
        [
            "n_points", "n_series", "n_images", "levels", "n",
            "times", "dim", "channels", "latent", "hidden", "width",
            "size", "in_channels", "out_channels", "in_features", "out_features", "heads",
            "classes", "groups", "samples", "num_power_iterations", "kernel_size", "stride",
            "window", "features", "shown", "out", "order", "signature_depth",
        ],
        COUNTS,
    ),
    **dict.fromkeys(["depth", "augment", "controls"], {"0"} | COUNTS),
    **dict.fromkeys(["field", "network", "known", "initial", "energy", "lagrangian"], FUNCTION),
    **dict.fromkeys(["potential", "mass", "activation"], FUNCTION),
    **dict.fromkeys(["readout", "decoder", "force"], {"None"} | FUNCTION),
    **dict.fromkeys(
        ["labels", "irregular", "inference", "dissipation", "control_density", "counts"], FLAG
    ),
    **dict.fromkeys(["time_channel", "use_bias"], FLAG),
    **dict.fromkeys(["inner", "outer", "span"], frozenset({"pair"})),
    **dict.fromkeys(["noise", "sigma", "rate"], NOT_NEGATIVE),
    **dict.fromkeys(["floor", "least", "period"], POSITIVE),
    **dict.fromkeys(["t0", "t1"], TIME),
    **dict.fromkeys(["basis", "base", "encoder", "cell", "kind", "system", "layer"], frozenset()),
    "key": {"key"},
    "future": {"0", "1"},
    "missing": LESS_THAN_ONE,
    "p": LESS_THAN_ONE,
    "integral_loss": {"None"} | FUNCTION,
    "ts": set(),
    "xs": set(),
    "mask": {"None"},
    "end": {"None"} | POSITIVE,
    "trace": FUNCTION,
    "structure": FUNCTION,
    "control": set(),
    "layers": {"empty list"},
}  # fmt: skip
# Those of one function alone.
TAKES_ALONE: dict[tuple[str, str], Any] = {
    ("Spiral", "key"): {"None", "key"},
    ("RBF", "width"): {"None"} | POSITIVE,
    ("ODERNNEncoder", "field"): {"None"} | FUNCTION,
    ("ODERNNEncoder", "width"): {"None"} | COUNTS,
    ("LatentODE", "field"): {"None"} | FUNCTION,
    ("LatentODE", "encoder"): FUNCTION,
    ("LatentODE", "t0"): {"None"} | TIME,
    ("ODERNN", "field"): {"None"} | FUNCTION,
    ("ODERNN", "width"): {"None"} | COUNTS,
    ("GRUODEBayes", "width"): {"None"} | COUNTS,
    ("PortHamiltonian", "control"): {"None"} | FUNCTION,
    ("PortHamiltonian", "key"): {"None", "key"},
    ("HyperSolver", "network"): {"None"} | FUNCTION,
    ("HyperSolver", "key"): {"key"},
    ("CNF", "base"): {"None"},
    ("HutchinsonTrace", "size"): {"None"} | COUNTS,
    ("FFJORD", "widths"): set(),
    ("cells", "size"): {"huge"},
    ("Dropout", "shape"): {"None", "empty list"} | COUNTS,
    ("LogODE", "depth"): COUNTS,
    ("japanese_vowels", "split"): set(),
    ("shop", "days"): COUNTS - {"huge"},
    **{("shop", name): NOT_NEGATIVE for name in ("reorder", "lead")},
    ("shop", "demand"): {"0.5", "1"},
    ("shop", "start"): POSITIVE,
    ("shop", "season"): {"0", "0.5", "1"},
    ("shop", "peak"): TIME,
    ("shop", "quantity"): POSITIVE,
    ("shop", "lead_spread"): NOT_NEGATIVE,
    ("visits", "days"): POSITIVE,
    ("visits", "changes"): set(),
    ("visits", "rates"): set(),
    ("windows", "ts"): set(),
    ("windows", "ys"): set(),
    ("windows", "length"): {"1"},
    ("windows", "horizon"): {"0", "1"},
    ("windows", "stride"): COUNTS,
}
# Of a library, without arguments, results, and functions of a model and data.
WITHOUT = {
    "WeightNorm", "Basis", "Control", "ExactTrace", "lynx_hare", "co2", "digits", "eeg", "mnist",
    "stocks", "sunspots", "airline", "sp500", "LatentSpirals", "Periodic", "Simulated", "System",
    "ShopLog", "Visits", "Utterances", "Windows", "cdeint", "log_signature",
    "negative_log_likelihood", "flow_matching_loss", "hypersolver_loss",
    "hypersolver_trajectory_loss",
}  # fmt: skip


def names() -> list[str]:
    found = [n for module in (jo.nn, jo.datasets) for n in public_functions(module, WITHOUT)]
    return list(dict.fromkeys(found))


def function_of(name: str) -> Callable[..., Any]:
    return getattr(jo.nn, name, None) or getattr(jo.datasets, name)


def taken_by(name: str, argument: str) -> Any:
    if (name, argument) in TAKES_ALONE:
        return TAKES_ALONE[name, argument]
    assert argument in TAKES, f"say in TAKES what {argument} of {name} takes"
    return TAKES[argument]


def faults(name: str) -> list[str]:
    assert name in NEEDED, f"say in NEEDED what {name} needs"
    function = function_of(name)
    taken = {argument: taken_by(name, argument) for argument in parameters_of(function)}
    return faults_of(name, function, NEEDED[name], taken)


# Equinox warns of arrays where none is expected, before our error is raised.
@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
@pytest.mark.parametrize("name", names())
def test_wrong_values_raise_errors_of_jaxode_before_a_compilation(name):
    assert not faults(name)
