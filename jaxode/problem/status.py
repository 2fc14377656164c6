"""Status codes of a solve, each with a message for the user."""

import enum


class Status(enum.IntEnum):
    """The reason why a solve ended; `sol.status` holds its number, one per trajectory."""

    SUCCESS = 0
    MAX_STEPS = 1
    STEP_UNDERFLOW = 2
    NOT_FINITE = 3
    BAD_TIMES = 4
    SINGULAR = 5
    BAD_JACOBIAN = 6
    NOT_CONVERGED = 7
    INCONSISTENT_START = 8
    TOO_MANY_EVENTS = 9
    EVENTS_ACCUMULATE = 10
    TERMINATED = 11
    EVENT_NOT_FINITE = 12

    @property
    def message(self) -> str:
        """The sentence for the user: the cause of the failure and its likely remedies."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.SUCCESS: "the solve reached its last time",
    Status.MAX_STEPS: (
        "max_steps was reached: raise max_steps, loosen rtol and atol, or shorten the time span; "
        "if the steps are far smaller than the solution needs, the problem is stiff: try "
        'solver="auto" or "rodas5p"'
    ),
    Status.STEP_UNDERFLOW: (
        "the step size fell below what the time can resolve, or below dtmin: the solution may blow "
        "up or jump here, the tolerances ask for more than the precision gives, or dt or dtmax "
        "allow no longer step; loosen rtol and atol, or use float64"
    ),
    Status.NOT_FINITE: (
        "the vector field or the state became NaN or infinite: check the field at this time and "
        "state, or take smaller steps"
    ),
    Status.SINGULAR: (
        "the matrix of an implicit step is singular, however small the step: check the mass "
        "matrix, or whether the algebraic equations determine their unknowns (index 1)"
    ),
    Status.BAD_JACOBIAN: (
        "the Jacobian of the vector field became NaN or infinite: check its derivatives at this "
        "time and state, for example those of sqrt, log and powers at zero"
    ),
    Status.NOT_CONVERGED: (
        "Newton's iteration for an implicit step did not converge, however small the step: check "
        "that jac= is the derivative of the field, loosen rtol and atol, or use float64"
    ),
    Status.INCONSISTENT_START: (
        "no start that satisfies the algebraic equations of the mass matrix was found near y0: "
        "give a y0 that is closer to one, and check that these equations determine their unknowns"
    ),
    Status.TOO_MANY_EVENTS: (
        "there were more events than max_events: raise it, end the solve at one of them, or ignore "
        'those beyond it with overflow="stop"'
    ),
    Status.EVENTS_ACCUMULATE: (
        "events follow each other faster than time resolves, like the bounces of a ball that comes "
        "to rest: end the solve there with a terminal event, or change the field by then"
    ),
    Status.TERMINATED: "a terminal event ended the solve",
    Status.EVENT_NOT_FINITE: (
        "the condition of an event became NaN: check it at this time and state"
    ),
    Status.BAD_TIMES: "ts is not monotone or holds NaN: give times that only increase or decrease",
}
