"""Figures: functions that take and return a matplotlib Axes."""

from .boundary import decision_boundary as decision_boundary
from .flow import flow as flow
from .forecast import forecast as forecast
from .phase import phase_portrait as phase_portrait
