"""Training loops on Optax."""

from .fit import Log as Log
from .fit import fit as fit
