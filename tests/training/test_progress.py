"""What `fit` shows: a bar in a terminal, lines elsewhere."""

import io
import re

import jax.numpy as jnp
import optax
import pytest

from jaxode.training import progress
from tests.support.one_weight import fit

ZEROS = jnp.zeros(4)


class Terminal(io.StringIO):
    """A stream that says it is a terminal, or that it is none."""

    def __init__(self, terminal):
        super().__init__()
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.fixture
def shown(monkeypatch):
    """What a training shows, by whether there is a terminal."""

    def run(terminal, data=ZEROS, **options):
        stream = Terminal(terminal)
        monkeypatch.setattr("sys.stderr", stream)
        fit(data, progress=True, **options)
        return stream.getvalue()

    return run


OPTIONS = {"steps": 4, "optimizer": optax.sgd(optax.linear_schedule(0.1, 0.0, 4))}


def test_a_bar_shows_the_last_values(shown):
    text = shown(True, validation=ZEROS, label="my fit", **OPTIONS)
    last = text.split("\r")[-1]
    assert re.search(
        r"my fit: 100%.*4/4 .*loss 0\.3\d+, learning_rate 0\.025, validation loss 0\.29\d+, "
        r"ms/step \d",
        last,
    )


def test_lines_are_few_without_a_terminal(shown, monkeypatch):
    text = shown(False, **OPTIONS)
    assert re.fullmatch(r"fit: 100% 4/4 \[0 of 0 s, loss 0\.3\d+, .*ms/step .*\]\n", text)
    monkeypatch.setattr(progress, "LINE_INTERVAL", -1.0)
    lines = shown(False, **OPTIONS).splitlines()
    assert [line.split("[")[0] for line in lines[:4]] == [
        "fit: 25% 1/4 ", "fit: 50% 2/4 ", "fit: 75% 3/4 ", "fit: 100% 4/4 "
    ]  # fmt: skip


def test_data_of_unknown_length_have_no_share(shown):
    text = shown(False, data=iter([ZEROS] * 3), epochs=1)
    assert text.startswith("fit: 3 [0 s, loss ")
