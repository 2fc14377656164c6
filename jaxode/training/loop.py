"""The loop of a training: steps, validation, callbacks, and how it ends."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jaxtyping import PyTree

from ..problem.errors import SolveError, TrainingError, TrainingWarning, warn_user
from ..problem.status import Status
from .best import Best
from .log import History, Log, shown_names
from .progress import Display, progress_text
from .state import TrainingState
from .step import Carry, Step, StepOutcome
from .validation import Validation

# So many failed steps one after the other end a training that skips them.
MOST_FAILURES = 10
# What a callback ends the training with, if it is false.
_TRUTH = (bool, np.bool_, np.ndarray, jax.Array)


class Plan(NamedTuple):
    """What a training does.

    - `step`: compiled. `key`: of all steps. `validation`: None without validation data.
    - `steps`: how many; None if the data decide. `validate_every`: steps. `patience`: validations
      without a better one that end it; None for no end.
    - `skip`: leave out what fails; else stop. `by_sample`: samples can be left out one by one.
    - `samples`: how many there are in what a step is given.
    """

    step: Step
    key: Array
    validation: Validation | None
    steps: int | None
    validate_every: int
    patience: int | None
    skip: bool
    by_sample: bool
    samples: Callable[[PyTree], int]
    callbacks: tuple[Callable[[TrainingState], Any], ...]


@dataclasses.dataclass
class TrainingProgress:
    """What a training has reached so far; an interruption leaves it whole."""

    carry: Carry
    best: Best = dataclasses.field(default_factory=Best)
    history: History = dataclasses.field(default_factory=History)
    failures: int = 0  # steps in a row

    def result(self, ended: str) -> tuple[Any, Log]:
        """The best model if there is one, else the last, and the log."""
        carry = self.best.carry or self.carry
        return model_of(carry), self.history.log(self.best.step, ended)


def model_of(carry: Carry) -> Any:
    """The model as the user gave it: a pair if it has a state."""
    return carry.model if carry.state is None else (carry.model, carry.state)


def train(
    plan: Plan, feed: Iterator[tuple[PyTree, int]], carry: Carry, display: Display
) -> tuple[Any, Log]:
    """Run the training. **Returns:** the model and the log.

    **Raises:** `SolveError` if the first step fails, `TrainingError` if it cannot go on, with the
    model and the log so far. **Warns:** `TrainingWarning` if it ends early.
    """
    reached = TrainingProgress(carry)
    try:
        ended = _steps(plan, feed, reached, display)
        _validate_last(plan, reached)
    except KeyboardInterrupt:
        ended = "interrupt"
        done = len(reached.history.records)
        warn_user(f"training stopped early: interrupted after {done} steps", TrainingWarning)
    except Exception as error:
        if not reached.history.records or isinstance(error, SolveError):
            raise
        raise _with_results(error, reached) from (error.__cause__ or error)
    finally:
        display.close()
    return reached.result(ended)


def _with_results(error: Exception, reached: TrainingProgress) -> TrainingError:
    """The error that hands over what has been reached."""
    if not isinstance(error, TrainingError):
        done = len(reached.history.records)
        error = TrainingError(f"after {done} steps: {type(error).__name__}: {error}")
    error.model, error.log = reached.result("failure")
    return error


def _steps(
    plan: Plan, feed: Iterator[tuple[PyTree, int]], reached: TrainingProgress, display: Display
) -> str:
    """Make the steps. **Returns:** why they ended."""
    history, began = reached.history, time.perf_counter()
    for number, (arrays, epoch) in enumerate(feed):
        if not _advance(plan, arrays, number, reached):
            _report_failure(number, history.records[-1])
            return "failure"
        done, validated = number + 1, None
        if plan.validation and (done % plan.validate_every == 0 or done == plan.steps):
            validated = _validate(plan.validation, reached)
        display.update(lambda: progress_text(history))
        if plan.callbacks:
            state = _state(reached, epoch, validated, time.perf_counter() - began)
            if not _go_on(plan.callbacks, state):
                return "callback"
        if plan.patience is not None and reached.best.waited >= plan.patience:
            return "patience"
    if plan.steps is not None and len(history.records) < plan.steps:
        warn_user(
            f"training stopped early: the data ended after {len(history.records)} of {plan.steps} "
            "steps; a function that makes the iterator lets them begin again",
            TrainingWarning,
        )
        return "data"
    return "steps"


def _advance(plan: Plan, arrays: PyTree, number: int, reached: TrainingProgress) -> bool:
    """Make one step. **Returns:** False if it failed and ends the training.

    **Raises:** `TrainingError` after too many that failed.
    """
    start = time.perf_counter()
    keep = np.ones(plan.samples(arrays), bool) if plan.by_sample else None
    outcome = _step(plan, arrays, number, reached, keep)
    if keep is not None and not outcome.finite:
        keep = np.asarray(outcome.succeeded)
        if 0 < keep.sum() < keep.size:
            outcome = _step(plan, arrays, number, reached, keep)
    finite = bool(outcome.finite)  # waits for the device: the time measured is the whole step's
    record = outcome.record
    if plan.skip:
        samples = plan.samples(arrays)
        failed = samples if not finite else 0 if keep is None else int(np.sum(~keep))
        record = {**record, "failed": failed}
    reached.carry = outcome.carry
    reached.history.seconds.append(time.perf_counter() - start)
    reached.history.records.append(record)
    reached.failures = 0 if finite else reached.failures + 1
    if reached.failures == MOST_FAILURES:
        raise TrainingError(f"{MOST_FAILURES} steps in a row failed; {_sentence(number, record)}")
    return finite or plan.skip


def _step(
    plan: Plan, arrays: PyTree, number: int, reached: TrainingProgress, keep: Any
) -> StepOutcome:
    return plan.step(reached.carry, arrays, plan.key, np.uint32(number), keep)


def _validate(validation: Validation, reached: TrainingProgress) -> float:
    """Evaluate the model, and keep it if it is the best. **Returns:** the validation loss."""
    done = len(reached.history.records)
    record = validation(reached.carry)
    reached.history.validations.append({"step": done, **record})
    reached.best = reached.best.after(reached.carry, record["loss"], done)
    return record["loss"]


def _validate_last(plan: Plan, reached: TrainingProgress) -> None:
    """Evaluate the last model, where a training did not know that it was the last."""
    done, validations = len(reached.history.records), reached.history.validations
    if plan.validation and done and (not validations or validations[-1]["step"] != done):
        _validate(plan.validation, reached)


def _state(
    reached: TrainingProgress, epoch: int, validated: float | None, seconds: float
) -> TrainingState:
    """What the callbacks are told."""
    record = reached.history.records[-1]
    values = {name: float(record[name]) for name in shown_names(record)}
    known = {name: values.pop(name, None) for name in ("learning_rate", "evaluations", "rejected")}
    return TrainingState(
        step=len(reached.history.records),
        epoch=epoch,
        loss=values.pop("loss"),
        validation_loss=validated,
        metrics=MappingProxyType(values),
        seconds=seconds,
        model=model_of(reached.carry),
        **known,
    )


def _go_on(callbacks: tuple[Callable[[TrainingState], Any], ...], state: TrainingState) -> bool:
    """Call all of them. **Returns:** False if one ends the training. **Raises:** `TrainingError`.

    The others are called all the same.
    """
    goes_on = True
    for callback in callbacks:
        try:
            result = callback(state)
            goes_on &= not isinstance(result, _TRUTH) or bool(result)
        except Exception as error:
            name = getattr(callback, "__qualname__", repr(callback))
            raise TrainingError(
                f"the callback {name} raised {type(error).__name__} at step {state.step}: {error}"
            ) from error
    return goes_on


def _report_failure(number: int, record: dict) -> None:
    message = _sentence(number, record)
    if number == 0:
        raise SolveError(message)
    warn_user(f"training stopped early: {message}", TrainingWarning)


def _sentence(number: int, record: dict) -> str:
    status = Status(int(record["status"])) if "status" in record else Status.SUCCESS
    cause = (
        f"the solve ended with {status.name}: {status.message}"
        if status
        else (
            "the solve went through, so look at the loss, the learning rate, or clip the gradient"
        )
    )
    return (
        f"loss or gradient is not finite at step {number} (loss {float(record['loss'])}); {cause}"
    )
