"""Wrong values of every argument of the calls and methods of models, as of the functions of `jo`.

The methods and their arguments are found by inspection, so a new one that is not listed fails.
"""

import contextlib
import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxode as jo
from tests.support.wrong_arguments import COUNTS, EVERY, POSITIVE, faults_of, parameters_of

KEY = jax.random.key(0)
X = jnp.ones((3, 2))
TS, XS = np.linspace(0.0, 1.0, 4), np.ones((3, 4, 2))
SERIES = {"ts": TS, "xs": XS}
TIME = {"0", "1", "-1", "0.5"}

FIELD = eqx.nn.Linear(2, 2, key=KEY)
MODELS: dict[str, Any] = {
    "NeuralODE": jo.NeuralODE(FIELD),
    "CNF": jo.nn.CNF(FIELD, 2),
    "ODEBlock": jo.nn.ODEBlock(2, groups=1, key=KEY),
    "ConvODENet": jo.nn.ConvODENet(2, 3, channels=2, groups=1, key=KEY),
    "NeuralCDE": jo.nn.NeuralCDE.mlp(2, 2, hidden=2, width=2, key=KEY),
    "ODERNN": jo.nn.ODERNN(2, 2, 1, key=KEY),
    "GRUODEBayes": jo.nn.GRUODEBayes(2, 2, key=KEY),
    "LatentODE": jo.nn.LatentODE(2, 2, key=KEY, t0=0.0),
}
IMAGES = jnp.ones((3, 2, 4, 4))
# What each method needs.
NEEDED: dict[str, dict[str, Any]] = {
    "NeuralODE": {"x": X},
    "NeuralODE.inverse": {"y1": X},
    "CNF": {"x": X},
    "CNF.inverse": {"z": X},
    "CNF.sample": {"key": KEY, "n": 3},
    "CNF.sample_and_log_prob": {"key": KEY, "n": 3},
    "ODEBlock": {"x": IMAGES},
    "ODEBlock.inverse": {"y1": IMAGES},
    "ConvODENet": {"x": IMAGES},
    "NeuralCDE": SERIES,
    "NeuralCDE.inverse": {"z1": X, **SERIES},
    "ODERNN": SERIES,
    "ODERNN.predict": {**SERIES, "times": TS},
    "GRUODEBayes": SERIES,
    "GRUODEBayes.predict": {**SERIES, "times": TS},
    "LatentODE": SERIES,
    "LatentODE.predict": {**SERIES, "times": TS},
    "LatentODE.decode": {"z0": X, "times": TS},
    "LatentODE.elbo": {**SERIES, "key": KEY},
    "LatentODE.elbo_loss": {**SERIES, "key": KEY},
    "LatentODE.inverse": {"z": X, "t": 1.0},
    "LatentODE.sample": {"key": KEY, "n": 3, "times": TS},
}
# Which of the wrong values an argument takes.
TAKES: dict[str, Any] = {
    **dict.fromkeys(["x", "y1", "z", "z0", "z1", "ts", "xs"], frozenset()),
    "args": EVERY,
    "args_axes": {"None", "0", "1", "-1", "huge"},  # there are no args
    "key": {"None", "key"},
    "mask": {"None"},
    "lengths": {"None"},
    "times": {"None", "pair", "seven numbers"},
    "evolving": {"True"},
    "outputs": set(),
    "n": COUNTS,
    "t": TIME,
    "t0": {"None"} | TIME,
    "noise": {"pair"} | POSITIVE,
    "kl_weight": {"0"} | POSITIVE,
    "weight": {"0"} | POSITIVE,
    "from_base": {"True"},
}  # fmt: skip
TAKES_ALONE: dict[tuple[str, str], Any] = {
    ("NeuralODE", "ts"): {"None", "pair", "seven numbers"},
    ("NeuralODE.solve", "ts"): {"None", "pair", "seven numbers"},
    ("NeuralODE", "x"): {"seven numbers"},
    **{
        (f"CNF.{method}", "ts"): {"None", "empty list", "seven numbers"}
        for method in ("forward", "inverse", "sample", "solve")
    },
    ("CNF.sample", "key"): {"key"},
    ("CNF.sample_and_log_prob", "key"): {"key"},
    ("LatentODE.elbo", "key"): {"key"},
    ("LatentODE.elbo_loss", "key"): {"key"},
    ("LatentODE.sample", "key"): {"key"},
}
# Methods on arrays that other methods make.
INNER = {"append_noise", "hidden_states", "distribution", "read", "solve_latent", "mlp"}


def methods_of(name: str) -> list[str]:
    found = inspect.getmembers(type(MODELS[name]), inspect.isfunction)
    public = [m for m, _ in found if not m.startswith("_") and m not in INNER]
    return public + ["__call__"] * callable(MODELS[name])


CASES = [(name, method) for name in MODELS for method in methods_of(name)]


@pytest.fixture(scope="module", autouse=True)
def operations_outside_of_programs_are_staged():
    """JAX compiles the conversion of an array once for each shape: before anything is counted."""
    for x in (X, np.ones(7), np.ones((2, 3, 5)), np.array([True])):
        with contextlib.suppress(jo.FieldError, jo.StateError):
            MODELS["NeuralODE"].inverse(x)
    with contextlib.suppress(jo.TimesError):
        MODELS["CNF"].sample(KEY, 3, ts=0)
    with contextlib.suppress(jo.BatchError):
        MODELS["CNF"].log_prob(X, args_axes=[])
    MODELS["NeuralCDE"].solve(**SERIES, times=TS)


@pytest.mark.parametrize(("name", "method"), CASES, ids=lambda part: part)
def test_wrong_values_raise_errors_of_jaxode_before_a_compilation(name, method):
    where = name if method == "__call__" else f"{name}.{method}"
    call = getattr(MODELS[name], method)
    needed = NEEDED.get(where, NEEDED[name])
    taken = {}
    for argument in parameters_of(call):
        if (where, argument) in TAKES_ALONE or argument in TAKES:
            taken[argument] = TAKES_ALONE.get((where, argument), TAKES.get(argument))
        else:
            raise AssertionError(f"say in TAKES what {argument} of {where} takes")
    assert not faults_of(where, call, needed, taken)
