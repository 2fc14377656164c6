"""The training steps of `benchmarks.speed.models` on the GPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.gpu.ensemble import concatenate
from benchmarks.gpu.ensemble_jobs import DIFFRAX, installed
from benchmarks.gpu.jobs import Job, Outcome, Section
from benchmarks.gpu.sizes import Sizes
from benchmarks.speed.models import CASES, make_step

JAXODE = "jaxode"


def section(sizes: Sizes) -> Section:
    """The jobs of this section."""
    # With one model only, it is the one that compiles fastest.
    names = list(CASES) if sizes.models > 1 else list(CASES)[1:2]
    found = [job for name in names for job in _jobs(name)]
    text = (
        "Value and gradient of the loss; N counts images, samples and series. Options of the "
        'models are their own: `kernel="auto"`.'
    )
    return Section("A training step of the models, float32", text, found)


def _jobs(name: str) -> list[Job]:
    """The jobs of one model, by jaxode and by diffrax."""
    gradients: dict[str, Any] = {}
    work, count = name.rsplit(", ", 1)
    methods = (JAXODE, DIFFRAX) if installed(DIFFRAX) else (JAXODE,)
    return [
        Job(
            work, int(count.split()[0]), method, partial(_make, name, method == DIFFRAX),
            note=partial(_note, gradients, method),
        )
        for method in methods
    ]  # fmt: skip


def _make(name: str, peer: bool) -> tuple[Callable, tuple]:
    """The training step of one model and its inputs."""
    model, batch, loss = CASES[name]()
    step, params = make_step(model, loss, peer)
    return lambda params, batch: Outcome(step(params, batch)), (params, batch)


def _note(gradients: dict[str, Any], method: str, found: Any) -> str:
    """The loss, and the relative difference of the two gradients once both are known."""
    value, gradients[method] = found
    loss = f"loss {float(value):.5g}"
    if len(gradients) < 2:
        return loss
    ours, theirs = (
        concatenate(jax.tree.leaves(gradients.pop(method))) for method in (JAXODE, DIFFRAX)
    )
    difference = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    if not np.isfinite(difference):
        return f"{loss}, not finite"
    return f"{loss}, gradients {difference:.0e} apart"
