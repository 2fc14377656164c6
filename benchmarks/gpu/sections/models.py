"""The training steps of `benchmarks.models`, on the GPU."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np

from benchmarks.gpu.ensemble import vector
from benchmarks.gpu.ensemble_jobs import DIFFRAX, installed
from benchmarks.gpu.jobs import Job, Outcome, Section
from benchmarks.gpu.sizes import Sizes
from benchmarks.speed import models

OURS = "jaxode"


def section(sizes: Sizes) -> Section:
    # The second is the quickest to compile.
    names = list(models.CASES) if sizes.models > 1 else list(models.CASES)[1:2]
    found = [job for name in names for job in _jobs(name)]
    text = (
        "Value and gradient of the loss; N counts images, samples and series. Options of the "
        'models are their own: `kernel="auto"`.'
    )
    return Section("A training step of the models, float32", text, found)


def _jobs(name: str) -> list[Job]:
    gradients: dict[str, Any] = {}
    what, count = name.rsplit(", ", 1)
    by = (OURS, DIFFRAX) if installed(DIFFRAX) else (OURS,)
    return [
        Job(
            what, int(count.split()[0]), one, partial(_made, name, one == DIFFRAX),
            note=partial(_said, gradients, one),
        )
        for one in by
    ]  # fmt: skip


def _made(name: str, peer: bool) -> tuple[Callable, tuple]:
    model, batch, loss = models.CASES[name]()
    step, params = models.step(model, loss, peer)
    return lambda params, batch: Outcome(step(params, batch)), (params, batch)


def _said(gradients: dict[str, Any], by: str, found: Any) -> str:
    """The loss, and how far the two gradients are apart once both are known."""
    value, gradients[by] = found
    said = f"loss {float(value):.5g}"
    if len(gradients) < 2:
        return said
    ours, theirs = (vector(jax.tree.leaves(gradients.pop(one))) for one in (OURS, DIFFRAX))
    apart = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    return f"{said}, gradients {apart:.0e} apart" if np.isfinite(apart) else f"{said}, not finite"
