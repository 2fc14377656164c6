"""The six examples of torchdiffeq, as programs of at most 30 lines that check their result."""

import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
EXAMPLES = [
    "bouncing_ball", "cnf", "latent_ode", "learn_physics", "ode_demo", "odenet_mnist",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_reaches_its_number(name):
    runpy.run_path(str(FOLDER / f"{name}.py"))


def test_each_example_is_short_and_uses_public_names():
    programs = {path.stem: path.read_text() for path in FOLDER.glob("[!t_]*.py")}
    assert sorted(programs) == EXAMPLES
    for name, text in programs.items():
        assert len(text.splitlines()) <= 30, name
        assert text.splitlines()[-1].startswith("assert "), name
        assert "jaxode." not in text and "from jaxode" not in text, name
