"""Neural ordinary differential equations, and fast differentiable ODE solvers, in JAX."""

from types import ModuleType as _Module

from . import baselines as baselines
from . import datasets as datasets
from . import nn as nn
from . import plotting as plotting
from .solvers.step_size import PI as PI
from .solvers.step_size import PID as PID
from .solvers.prescribed_steps import Fixed as Fixed
from .solvers.prescribed_steps import Grid as Grid
from .solvers.step_size import I as I
from .solvers.step_size import AttemptedStep as AttemptedStep
from .solvers.step_size import Controller as Controller
from .solvers.step_size import Decision as Decision
from .solvers.base import EvaluationCounts as EvaluationCounts
from .solvers.base import Solver as Solver
from .solvers.base import StepResult as StepResult
from .problem.errors import BatchError as BatchError
from .problem.errors import DataError as DataError
from .problem.errors import EventError as EventError
from .problem.errors import DifferentiationError as DifferentiationError
from .problem.errors import FieldError as FieldError
from .problem.errors import OptionError as OptionError
from .problem.errors import OutOfMemoryError as OutOfMemoryError
from .problem.errors import RecompilationWarning as RecompilationWarning
from .problem.errors import SolveError as SolveError
from .problem.errors import StateError as StateError
from .problem.errors import TimesError as TimesError
from .problem.errors import TimesWarning as TimesWarning
from .problem.errors import ToleranceError as ToleranceError
from .problem.errors import StiffnessWarning as StiffnessWarning
from .problem.errors import ToleranceWarning as ToleranceWarning
from .problem.errors import TrainingError as TrainingError
from .problem.errors import TrainingWarning as TrainingWarning
from .integrate.events.event import AtRest as AtRest
from .integrate.events.event import Event as Event
from .integrate.events.event import Jumps as Jumps
from .integrate.solution import Events as Events
from .solvers.linear import Banded as Banded
from .solvers.linear import Dense as Dense
from .solvers.linear import Krylov as Krylov
from .solvers.linear import Sparse as Sparse
from .solvers.linear import sparsity as sparsity
from .nn import NeuralODE as NeuralODE
from .drivers.multiple_shooting import MultipleShooting as MultipleShooting
from .drivers.multiple_shooting import multiple_shooting as multiple_shooting
from .drivers.odeint import odeint as odeint
from .drivers.solve_ivp import solve_ivp as solve_ivp
from .sensitivity.continuous.backward_solver import BackwardStats as BackwardStats
from .sensitivity.continuous.options import Continuous as Continuous
from .sensitivity.discrete.options import Discrete as Discrete
from .sensitivity.reversible import Reversible as Reversible
from .sensitivity.forward_mode import Forward as Forward
from .integrate.solution import Solution as Solution
from .integrate.solution import Stats as Stats
from .problem.compilation_cache import cache as cache
from .problem.status import Status as Status
from .drivers.save_at import SaveAt as SaveAt
from .drivers.solve import solve as solve
from .drivers.solve_batch import solve_batch as solve_batch
from .solvers.explicit.own_tableau import ExplicitTableau as ExplicitTableau
from .solvers.explicit.reversible import ReversibleRK as ReversibleRK
from .drivers.steady_state import SteadyState as SteadyState
from .drivers.steady_state import steady_state as steady_state
from .solvers.symplectic.dprkn6 import DPRKN6 as DPRKN6
from .solvers.explicit.low_order import RK4 as RK4
from .solvers.explicit.rkc import RKC2 as RKC2
from .solvers.multistep.bdf import BDF as BDF
from .solvers.multistep.adams import Adams as Adams
from .solvers.multistep.adams_fixed import AdamsBashforth4 as AdamsBashforth4
from .solvers.multistep.adams_fixed import AdamsMoulton4 as AdamsMoulton4
from .solvers.explicit.reversible import AsynchronousLeapfrog as AsynchronousLeapfrog
from .solvers.switching import Auto as Auto
from .solvers.implicit.trbdf2 import TRBDF2 as TRBDF2
from .solvers.explicit.low_order import Bosh3 as Bosh3
from .solvers.explicit.dopri5 import Dopri5 as Dopri5
from .solvers.explicit.dopri8 import Dopri8 as Dopri8
from .solvers.explicit.low_order import Euler as Euler
from .solvers.explicit.low_order import Fehlberg2 as Fehlberg2
from .solvers.implicit.gauss_legendre import GaussLegendre4 as GaussLegendre4
from .solvers.implicit.gauss_legendre import GaussLegendre6 as GaussLegendre6
from .solvers.explicit.low_order import Heun as Heun
from .solvers.explicit.low_order import Heun3 as Heun3
from .solvers.explicit.low_order import HeunEuler as HeunEuler
from .solvers.implicit.radau import ImplicitEuler as ImplicitEuler
from .solvers.implicit.gauss_legendre import ImplicitMidpoint as ImplicitMidpoint
from .solvers.symplectic.mclachlan import McLachlan4 as McLachlan4
from .solvers.implicit.kencarp3 import KenCarp3 as KenCarp3
from .solvers.implicit.kencarp4 import KenCarp4 as KenCarp4
from .solvers.implicit.kencarp5 import KenCarp5 as KenCarp5
from .solvers.implicit.kvaerno3 import Kvaerno3 as Kvaerno3
from .solvers.implicit.kvaerno4 import Kvaerno4 as Kvaerno4
from .solvers.implicit.kvaerno5 import Kvaerno5 as Kvaerno5
from .solvers.explicit.low_order import Midpoint as Midpoint
from .solvers.implicit.radau import RadauIIA3 as RadauIIA3
from .solvers.implicit.radau import RadauIIA5 as RadauIIA5
from .solvers.implicit.sdirk2 import SDIRK2 as SDIRK2
from .solvers.symplectic.nystrom4 import Nystrom4 as Nystrom4
from .solvers.explicit.low_order import Ralston as Ralston
from .solvers.explicit.low_order import RK4ThreeEighths as RK4ThreeEighths
from .solvers.explicit.reversible import ReversibleHeun as ReversibleHeun
from .solvers.implicit.rodas4 import Rodas4 as Rodas4
from .solvers.implicit.rodas5p import Rodas5P as Rodas5P
from .solvers.implicit.rosenbrock23 import Rosenbrock23 as Rosenbrock23
from .solvers.symplectic.verlet import SemiImplicitEuler as SemiImplicitEuler
from .solvers.symplectic.verlet import StormerVerlet as StormerVerlet
from .solvers.implicit.trapezoid import Trapezoid as Trapezoid
from .solvers.explicit.tsit5 import Tsit5 as Tsit5
from .solvers.explicit.vern7 import Vern7 as Vern7
from .solvers.symplectic.yoshida import Yoshida4 as Yoshida4
from .solvers.symplectic.yoshida import Yoshida6 as Yoshida6
from .solvers.registry import register as register
from .solvers.registry import solver_classes as _solver_classes
from .training import Log as Log
from .training import callbacks as callbacks
from .training import fit as fit
from .training import small_last_layer as small_last_layer

# Every solver of the registry; the lines above tell type checkers about those that exist.
for _solver in _solver_classes():
    globals().setdefault(_solver.__name__, _solver)

NeuralDE = NeuralODE  # torchdyn's name

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    name
    for name, value in globals().items()
    if not name.startswith("_")
    and (not isinstance(value, _Module) or value in (baselines, callbacks, datasets, nn, plotting))
]

__version__ = "0.1.0"
