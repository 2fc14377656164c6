"""Training of models with Optax."""

from .fit import Log as Log
from .fit import fit as fit
