"""The log of a training: what each step and each validation gave."""

import dataclasses
from typing import Any

import numpy as np


@dataclasses.dataclass
class Log:
    """The history and the timings of a `fit`.

    - `history` maps a name to one value per step, shape `(steps,)`: "loss", the metrics' names,
      "evaluations" and "rejected" (steps of the forward solve, if known, averaged over the
      samples), "learning_rate" (of a schedule or a line search), "failed" (samples left out, with
      `on_failure="skip"`), and the scalars that the loss returned.
    - `ms_per_step`: the median time of all steps but the first; `compile_seconds`: the first
      step's excess over it.
    - `validation`: one value per validation, shape `(validations,)`: "step" (how many steps were
      done), "loss" and the metrics; empty without validation data.
    - `best_step`: after how many steps the model was the one that is returned; None without
      validation data.
    - `ended`: "steps", "patience", "callback", "interrupt", "data" (no more batches) or "failure".
    """

    history: dict[str, np.ndarray]
    compile_seconds: float
    ms_per_step: float
    validation: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    best_step: int | None = None
    ended: str = "steps"

    @property
    def loss(self) -> np.ndarray:
        """The loss before each step, shape `(steps,)`."""
        return self.history["loss"]

    def summary(self) -> str:
        """One line with the last values, the time per step and the compile time."""
        last = [f"{name} {values[-1]:.4g}" for name, values in self.history.items() if values.size]
        if self.best_step is not None:
            at = np.flatnonzero(self.validation["step"] == self.best_step)[0]
            best = self.validation["loss"][at]
            last.append(f"validation loss {best:.4g} at step {self.best_step}, the best")
        if "failed" in self.history:
            last[-1] += f", {int(np.sum(self.history['failed']))} samples failed in all"
        return (
            f"{self.loss.size} steps: {', '.join(last)}, {self.ms_per_step:.1f} ms/step, "
            f"compiled in {self.compile_seconds:.1f} s"
        )


@dataclasses.dataclass
class History:
    """What the steps so far gave: scalars on the device, and seconds; the loop appends to it."""

    records: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    validations: list[dict[str, float]] = dataclasses.field(default_factory=list)

    def log(self, best_step: int | None, ended: str) -> Log:
        """The log of these steps; of none, an empty one."""
        names = shown_names(self.records[0]) if self.records else ["loss"]
        history = {
            name: np.array([float(record[name]) for record in self.records]) for name in names
        }
        first = self.seconds[0] if self.seconds else 0.0
        median = float(np.median(self.seconds[1:])) if len(self.seconds) > 1 else first
        validation = {
            name: np.array([record[name] for record in self.validations])
            for name in (self.validations[0] if self.validations else ())
        }
        return Log(history, max(0.0, first - median), 1e3 * median, validation, best_step, ended)


def shown_names(record: dict[str, Any]) -> list[str]:
    """The names to log, the loss first."""
    return sorted((name for name in record if name != "status"), key=lambda n: (n != "loss", n))
