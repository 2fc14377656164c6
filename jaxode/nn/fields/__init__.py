"""Vector fields: modules that make a network the right-hand side of an ODE.

Each is called as `field(t, y, args)` for one sample and returns its time derivative, in `jo.solve`,
`jo.solve_batch` and the models of `jo.nn`.
"""

from equinox.nn import WeightNorm as WeightNorm

from .attention import TransformerField as TransformerField
from .bases import RBF as RBF
from .bases import Basis as Basis
from .bases import Chebyshev as Chebyshev
from .bases import Fourier as Fourier
from .bases import Polynomial as Polynomial
from .concat import DataControlled as DataControlled
from .concat import DepthConcat as DepthConcat
from .concat_squash import ConcatConv2d as ConcatConv2d
from .concat_squash import ConcatSquash as ConcatSquash
from .concat_squash import ConcatSquashConv2d as ConcatSquashConv2d
from .concat_squash import concat_squash_mlp as concat_squash_mlp
from .dropout import Dropout as Dropout
from .galerkin import GalerkinConv2d as GalerkinConv2d
from .galerkin import GalerkinLinear as GalerkinLinear
from .hamiltonian import Hamiltonian as Hamiltonian
from .hamiltonian import PortHamiltonian as PortHamiltonian
from .lagrangian import Lagrangian as Lagrangian
from .lagrangian import MechanicalLagrangian as MechanicalLagrangian
from .norms import SpectralNorm as SpectralNorm
from .second_order import HigherOrder as HigherOrder
from .second_order import SecondOrder as SecondOrder
from .sequential import Sequential as Sequential
from .stable import ConvexPotential as ConvexPotential
from .stable import EnergyStable as EnergyStable
from .stable import Gradient as Gradient
from .ude import UDE as UDE
