"""Data to learn from: toys that are drawn afresh, and records that come with the package."""

from .lynx_hare import lynx_hare as lynx_hare
from .spiral import Spiral as Spiral
