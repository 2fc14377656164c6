"""Figures of models and solutions: functions that draw on a matplotlib Axes and return it."""

from .boundary import decision_boundary as decision_boundary
from .flow import flow as flow
from .forecast import forecast as forecast
from .phase import phase_portrait as phase_portrait
