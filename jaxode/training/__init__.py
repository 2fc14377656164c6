"""Training of models with Optax."""

from . import callbacks as callbacks
from .fit import fit as fit
from .initialisation import small_last_layer as small_last_layer
from .log import Log as Log
