"""The best model on validation data, and when to stop looking for a better one."""

import math
from typing import NamedTuple

from .step import Carry


class Best(NamedTuple):
    """The best model so far.

    - `carry`: after `step` steps, with this validation `loss`; None before the first finite one.
    - `waited`: validations since then.
    """

    carry: Carry | None = None
    loss: float = math.inf
    step: int | None = None
    waited: int = 0

    def after(self, carry: Carry, loss: float, step: int) -> "Best":
        """The best after one more validation; a loss that is not finite is no better."""
        if loss < self.loss:
            return Best(carry, loss, step, 0)
        return self._replace(waited=self.waited + 1)
