"""Ready callbacks of `jo.fit`, and what every callback is told."""

from ..state import TrainingState as TrainingState
from .files import csv as csv
from .files import tensorboard as tensorboard
from .lines import printing as printing
