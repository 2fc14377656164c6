"""The simple things one tries first: forecasts and fills beside which a model is worth something.

Pure functions of series, the batch first: `(batch, times, channels)`. They are computed by NumPy in
double precision, so not inside of `jit`; results are JAX arrays.
"""

from .autoregression import autoregression as autoregression
from .interpolation import interpolate as interpolate
from .naive import persistence as persistence
from .naive import seasonal_naive as seasonal_naive
