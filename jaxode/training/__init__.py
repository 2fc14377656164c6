"""Training of models with Optax."""

from . import callbacks as callbacks
from .fit import fit as fit
from .log import Log as Log
