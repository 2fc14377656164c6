"""Bounds in the documentation are those that the tests assert."""

import pathlib

import pytest

from tests.integrate.test_events import ROUNDING
from tests.sensitivity.test_adjoint_restarts import ALLOWED
from tests.sensitivity.test_at_rest import MOST
from tests.solvers.test_stiff import LARGEST, MEDIAN

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def power(x: float) -> str:
    """Such as 5e-5."""
    return f"{x:.0e}".replace("e-0", "e-")


BOUNDS = [
    ("solvers.md", f"within {LARGEST} times the tolerance and in the median within {MEDIAN}"),
    ("gradients.md", f"the gradient is right to {MOST} tolerances"),
    ("gradients.md", f"gradients of five solvers are within {ALLOWED:.0f} tolerances"),
    ("events.md", f'in float32 to {power(ROUNDING["dopri5"])} with `"dopri5"`, and to'),
    ("events.md", f'and to {power(ROUNDING["tsit5"])} with `"tsit5"`'),
]


@pytest.mark.parametrize(("page", "sentence"), BOUNDS)
def test_a_page_states_the_bound_of_its_test(page, sentence):
    assert sentence in " ".join((DOCS / page).read_text().split())
