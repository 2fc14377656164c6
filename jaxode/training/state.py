"""What a callback of `fit` is told after each step."""

import dataclasses
from collections.abc import Mapping

from jaxtyping import PyTree


@dataclasses.dataclass(frozen=True)
class TrainingState:
    """Where a training stands after a step.

    - `step`: the steps done, from 1 on. `epoch`: the epoch of this step, from 0 on.
    - `loss`: the loss of the batch, before the step. `validation_loss`: after this step; None if
      there was no validation after it.
    - `metrics`: the metrics and what else the loss logs, by name.
    - `learning_rate`: that of a schedule or a line search; None if it is constant or unknown.
    - `evaluations`, `rejected`: field evaluations and rejected steps of the forward solve, averaged
      over the samples; None if unknown.
    - `seconds`: since the training began.
    - `model`: the model after this step; of a model with state, `(model, state)`.
    """

    step: int
    epoch: int
    loss: float
    validation_loss: float | None
    metrics: Mapping[str, float]
    learning_rate: float | None
    evaluations: float | None
    rejected: float | None
    seconds: float
    model: PyTree
