"""Neural differential equations as Equinox modules."""

from .neural_ode import NeuralODE as NeuralODE
