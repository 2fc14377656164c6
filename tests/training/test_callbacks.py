"""Callbacks of `fit`: what they are told, how they end a training, the ready ones, and Ctrl-C."""

import csv
import dataclasses
import os
import sys
import types

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxode as jo
from tests.support.one_weight import fit, weight

ZEROS = jnp.zeros(4)


def test_the_state_holds_what_the_log_holds():
    states: list[jo.callbacks.TrainingState] = []

    def loss(model, batch):
        return model.value**2, {"twice": 2 * model.value}

    optimizer = optax.sgd(optax.linear_schedule(0.1, 0.0, 4))
    _, log = fit(
        ZEROS, loss=loss, epochs=2, batch_size=2, optimizer=optimizer,
        validation=ZEROS, validate_every=3, callbacks=states.append,
    )  # fmt: skip
    assert [(s.step, s.epoch) for s in states] == [(1, 0), (2, 0), (3, 1), (4, 1)]
    np.testing.assert_allclose([s.loss for s in states], log.loss)
    np.testing.assert_allclose([s.metrics["twice"] for s in states], log.history["twice"])
    np.testing.assert_allclose([s.learning_rate or 0 for s in states], [0.1, 0.075, 0.05, 0.025])
    losses = log.validation["loss"]
    assert [s.validation_loss for s in states] == [None, None, losses[0], losses[1]]
    assert states[-1].model.value ** 2 == pytest.approx(losses[1])
    assert states[0].evaluations is None
    assert states[0].rejected is None
    assert 0 < states[0].seconds < states[3].seconds
    with pytest.raises(dataclasses.FrozenInstanceError):
        states[0].step = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_false_ends_the_training_and_every_callback_is_called():
    seen = []
    small = [lambda s: s.model.value > 0.9**2.5, lambda s: seen.append(s.step)]
    trained, log = fit(ZEROS, callbacks=small)
    np.testing.assert_allclose(trained.value, 0.9**3, rtol=1e-12)
    assert (log.ended, log.loss.size, seen) == ("callback", 3, [1, 2, 3])


def test_a_callback_that_raises_is_named_and_nothing_is_lost():
    def breaks(state):
        if state.step == 2:
            raise OSError("no space left on device")

    with pytest.raises(jo.TrainingError, match=r"breaks raised OSError at step 2: no sp") as caught:
        fit(ZEROS, callbacks=[breaks])
    np.testing.assert_allclose(caught.value.model.value, 0.9**2, rtol=1e-12)
    assert caught.value.log.loss.size == 2
    assert isinstance(caught.value.__cause__, OSError)


@pytest.mark.parametrize("at", [0, 3])
def test_an_interrupt_ends_with_the_model_and_the_log_so_far(at):
    def batches():
        yield ZEROS  # of the checks
        for _ in range(at - 1):
            yield ZEROS
        raise KeyboardInterrupt

    def interrupt(state):
        if at == 0:
            raise KeyboardInterrupt

    with pytest.warns(jo.TrainingWarning, match=f"interrupted after {max(at, 1)} steps"):
        trained, log = fit(batches, callbacks=interrupt)
    np.testing.assert_allclose(trained.value, 0.9 ** max(at, 1), rtol=1e-12)
    assert (log.ended, log.loss.size) == ("interrupt", max(at, 1))


def test_an_interrupt_before_the_first_step_leaves_an_empty_log():
    def loss(model, batch):
        loss.traced += 1
        if loss.traced == 2:  # while the step is compiled
            raise KeyboardInterrupt
        return model.value

    loss.traced = 0
    with pytest.warns(jo.TrainingWarning, match="interrupted after 0 steps"):
        trained, log = fit(ZEROS, loss=loss)
    assert trained.value == 1.0
    assert log.loss.size == 0
    assert "0 steps" in log.summary()


def read(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_csv_writes_a_row_for_each_step(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("an older file\n")
    _, log = fit(
        ZEROS, steps=3, validation=ZEROS, validate_every=2, callbacks=jo.callbacks.csv(path)
    )
    rows = read(path)
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    np.testing.assert_array_equal([float(row["loss"]) for row in rows], log.loss)
    assert [row["validation_loss"] == "" for row in rows] == [True, False, False]
    assert float(rows[1]["validation_loss"]) == log.validation["loss"][0]
    assert {"epoch", "learning_rate", "evaluations", "rejected", "seconds"} < set(rows[0])
    every = jo.callbacks.csv(str(path), every=2)
    fit(ZEROS, steps=3, callbacks=every)
    assert [row["step"] for row in read(path)] == ["2"]


def test_printing_prints_a_line_every_so_many_steps(capsys):
    fit(ZEROS, steps=5, callbacks=jo.callbacks.printing(every=2))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["step 2: loss 0.405", "step 4: loss 0.2657"]


def test_tensorboard_gets_the_scalars(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder):
            assert os.path.samefile(os.path.dirname(folder), tmp_path)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def flush(self):
            pass

    module = types.ModuleType("tensorboardX")
    monkeypatch.setattr(module, "SummaryWriter", SummaryWriter, raising=False)
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    _, log = fit(ZEROS, steps=3, callbacks=jo.callbacks.tensorboard(tmp_path / "run", every=2))
    assert written == [("loss", log.loss[1], 2)]
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(jo.OptionError, match=r'pip install "jaxode\[tensorboard\]"'):
        jo.callbacks.tensorboard(tmp_path / "run")


def test_paths_are_checked_before_the_training(tmp_path):
    with pytest.raises(jo.OptionError, match="path must be a file in a folder that exists"):
        jo.callbacks.csv(tmp_path / "nowhere" / "log.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(jo.OptionError, match=r"folder must be a folder, but .* is a file"):
        jo.callbacks.tensorboard(tmp_path / "file")
    with pytest.raises(jo.OptionError, match="callbacks must be a function of the state"):
        fit(ZEROS, model=weight(), callbacks=["print"])
