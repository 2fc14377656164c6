"""Which combinations of options are refused, by which error, and random choices of both kinds."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import numpy as np

import jaxode as jo
from tests.support.combinations import OPTIONS, Combination

EXPLICIT_RUNGE_KUTTA = ("tsit5", "dopri8", "vern7", "bosh3", "heun", "ralston", "rk4", "euler")
WITHOUT_ERROR_ESTIMATE = ("heun", "ralston", "rk4", "euler")
CONTINUOUS = ("adjoint", "backsolve", "interpolate")


@dataclasses.dataclass(frozen=True)
class Refusal:
    """A rule of what is refused: a sentence, the error, words of its message, and the rule."""

    because: str
    error: type[Exception]
    words: str
    applies: Callable[[Combination], bool]


REFUSALS = (
    Refusal(
        "A grid prescribes every step, and events and jumps end steps where they are.",
        jo.OptionError,
        "jo.Grid prescribes every step",
        lambda c: c.controller == "grid" and c.events != "none",
    ),
    Refusal(
        "Reversible steps do not go through events and jumps.",
        jo.OptionError,
        "does not differentiate through events",
        lambda c: c.sensitivity == "reversible" and c.events != "none",
    ),
    Refusal(
        "The adjoint equation has cotangents at given times, not along the steps.",
        jo.OptionError,
        "gives gradients of values at ts",
        lambda c: c.sensitivity in CONTINUOUS and c.save in ("steps", "dense"),
    ),
    Refusal(
        "The stages of a batch are not kept.",
        jo.OptionError,
        "keeps the stages of single solves",
        lambda c: c.sensitivity == "stages" and c.transform == "batch",
    ),
    Refusal(
        "Only explicit Runge-Kutta solvers have a reversible version.",
        jo.OptionError,
        "cannot be undone: use an explicit Runge-Kutta solver",
        lambda c: (
            c.sensitivity == "reversible"
            and c.solver not in (*EXPLICIT_RUNGE_KUTTA, "reversible_heun")
        ),
    ),
    Refusal(
        "The reversible version of a solver is another method, which needs an error estimate.",
        jo.OptionError,
        "of a given size cannot be undone",
        lambda c: (
            c.sensitivity == "reversible"
            and c.solver in EXPLICIT_RUNGE_KUTTA
            and (c.controller in ("fixed", "grid") or c.solver in WITHOUT_ERROR_ESTIMATE)
        ),
    ),
)


def refusals(combination: Combination) -> list[Refusal]:
    """The rules that refuse a combination."""
    return [rule for rule in REFUSALS if rule.applies(combination)]


def random_combinations(seed: int) -> Iterator[Combination]:
    """Random combinations without end, refused ones too."""
    random, sizes = np.random.default_rng(seed), [len(values) for values in OPTIONS.values()]
    while True:
        for row in random.integers(0, sizes, (1000, len(sizes))):
            yield Combination(*(v[i] for v, i in zip(OPTIONS.values(), row, strict=True)))


def pairs(combination: Combination) -> set[tuple]:
    """The pairs of values of two options."""
    return set(itertools.combinations(vars(combination).items(), 2))


def covering_combinations(count: int, seed: int) -> list[Combination]:
    """Random combinations that nothing refuses, each of a hundred the one with most new pairs.

    Of several the one that compiles sooner.
    """
    allowed = (c for c in random_combinations(seed) if not refusals(c))
    seen: set[tuple] = set()
    chosen = []
    for _ in range(count):
        hundred = itertools.islice(allowed, 100)
        best = max(hundred, key=lambda c: (len(pairs(c) - seen), -compile_cost(c)))
        seen |= pairs(best)
        chosen.append(best)
    return chosen


def compile_cost(combination: Combination) -> float:
    """About how long it takes to compile a combination: events that occur take longest."""
    events = {"passed": 1.0, "terminal": 0.5}.get(combination.events, 0.0)
    return events * (2 if combination.sensitivity in CONTINUOUS else 1)


def refused_combinations(count: int, seed: int) -> list[tuple[Refusal, Combination]]:
    """Random combinations that one rule alone refuses, `count` for each of the rules."""
    alone = ((r[0], c) for c in random_combinations(seed) if len(r := refusals(c)) == 1)
    chosen: dict[Refusal, list[Combination]] = {rule: [] for rule in REFUSALS}
    while any(len(found) < count for found in chosen.values()):
        rule, combination = next(alone)
        if len(chosen[rule]) < count and combination not in chosen[rule]:
            chosen[rule].append(combination)
    return [(rule, found[i]) for i in range(count) for rule, found in chosen.items()]


def allowed_pairs() -> set[tuple]:
    """The pairs of values that are in some combination that nothing refuses."""
    allowed: set[tuple] = set()
    for values in itertools.product(*OPTIONS.values()):
        combination = Combination(*values)
        if not refusals(combination):
            allowed |= pairs(combination)
    return allowed
