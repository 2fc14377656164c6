"""The discrete adjoint of a batch: the replay of `discrete.py`, in lanes."""

from ..batch import lanes as tiles
from ..batch.lanes import Tile
from ..batch.run import Ensemble, Run
from ..forward import Result


def solve_in_lanes(ensemble: Ensemble, tile: Tile) -> Result:
    run = Run(ensemble, tile)
    return run.close(tiles.run(run.work(), tile, (run.open(), None)))
