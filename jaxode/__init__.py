"""Neural ordinary differential equations, and fast differentiable ODE solvers, in JAX."""

from . import datasets as datasets
from . import nn as nn
from . import plotting as plotting
from .control import PI as PI
from .control import PID as PID
from .control import Fixed as Fixed
from .control import Grid as Grid
from .control import I as I
from .errors import BatchError as BatchError
from .errors import DataError as DataError
from .errors import FieldError as FieldError
from .errors import OptionError as OptionError
from .errors import OutOfMemoryError as OutOfMemoryError
from .errors import SolveError as SolveError
from .errors import StateError as StateError
from .errors import TimesError as TimesError
from .errors import ToleranceError as ToleranceError
from .errors import ToleranceWarning as ToleranceWarning
from .errors import TrainingWarning as TrainingWarning
from .nn import NeuralODE as NeuralODE
from .odeint import odeint as odeint
from .sensitivity.continuous import Continuous as Continuous
from .sensitivity.discrete import Discrete as Discrete
from .solution import Solution as Solution
from .solution import Stats as Stats
from .solution import Status as Status
from .solve import solve as solve
from .solve_batch import solve_batch as solve_batch
from .stepping.solvers import RK4 as RK4
from .stepping.solvers import BDF as BDF
from .stepping.solvers import Bosh3 as Bosh3
from .stepping.solvers import Dopri5 as Dopri5
from .stepping.solvers import Dopri8 as Dopri8
from .stepping.solvers import Euler as Euler
from .stepping.solvers import Fehlberg2 as Fehlberg2
from .stepping.solvers import Heun as Heun
from .stepping.solvers import HeunEuler as HeunEuler
from .stepping.solvers import Midpoint as Midpoint
from .stepping.solvers import Ralston as Ralston
from .stepping.solvers import RK4ThreeEighths as RK4ThreeEighths
from .stepping.solvers import Rodas4 as Rodas4
from .stepping.solvers import Rodas5P as Rodas5P
from .stepping.solvers import Rosenbrock23 as Rosenbrock23
from .stepping.solvers import Tsit5 as Tsit5
from .stepping.solvers import Vern7 as Vern7
from .training import Log as Log
from .training import fit as fit

NeuralDE = NeuralODE  # torchdyn's name

__version__ = "0.1.0"
