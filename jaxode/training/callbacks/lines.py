"""A callback that prints."""

from collections.abc import Callable

from ...problem.validation import check_count
from ..state import TrainingState


def printing(every: int = 100) -> Callable[[TrainingState], None]:
    """Make a callback that prints a line of the scalars after every `every` steps.

    **Raises:** `OptionError` unless `every` is a positive integer.
    """
    every = check_count("every", every)

    def write(state: TrainingState) -> None:
        if state.step % every == 0:
            values = [f"{name} {value:.4g}" for name, value in scalars_of(state).items()]
            print(f"step {state.step}: {', '.join(values)}, {state.seconds:.1f} s")

    return write


def scalars_of(state: TrainingState) -> dict[str, float]:
    """The scalars of a step that are known, by name, the loss first."""
    known = {
        "loss": state.loss,
        "validation_loss": state.validation_loss,
        **state.metrics,
        "learning_rate": state.learning_rate,
        "evaluations": state.evaluations,
        "rejected": state.rejected,
    }
    return {name: value for name, value in known.items() if value is not None}
