"""Functions with solves inside, outside of `jit`: compiled, and kept by what they compute."""

from collections.abc import Callable
from typing import Any

from ..problem.closure import closure_convert
from ..problem.partition import partition
from ..problem.programs import Compiled, ProgramKey, kept_program, owner_of, value_key
from ..problem.staging import under_jit
from ..problem.survey import is_surveying, surveying


def run_model(function: Callable[..., Any], *args: Any) -> Any:
    """Return `function(*args)`, compiled unless under `jit`.

    `args`: pytrees of arrays, and of whatever else `function` reads: it is traced anew at every
    call, without the loops of its solves.

    **Raises:** what `function` raises.
    """
    if under_jit() or is_surveying():
        return function(*args)
    arrays, static = partition(args)

    def of_arrays(arrays: list[Any]) -> Any:
        return function(*static.join(arrays))

    with surveying():
        survey, _ = closure_convert(of_arrays, arrays, users=False)
    key = ProgramKey(function, survey.program, *map(value_key, survey.consts))
    trace = survey.program
    return kept_program(key, owner_of(function), key, trace, lambda: Compiled(of_arrays))(arrays)
