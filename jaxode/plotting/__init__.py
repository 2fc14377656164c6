"""Figures of models and solutions: functions that draw on a matplotlib Axes and return it."""

from .animation import animate_flow as animate_flow
from .boundary import decision_boundary as decision_boundary
from .density import density as density
from .flow import flow as flow
from .forecast import forecast as forecast
from .phase import phase_portrait as phase_portrait
