"""The demonstration of `python -m jaxode demo`: two neural ODEs, a table and four figures."""

from .run import FULL as FULL
from .run import QUICK as QUICK
from .run import Effort as Effort
from .run import run as run
