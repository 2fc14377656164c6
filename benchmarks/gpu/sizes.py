"""Sizes of the benchmark: the full ones for a GPU, and tiny ones that show that all of it runs."""

from typing import NamedTuple


class Sizes(NamedTuple):
    """Numbers of trajectories, unless stated otherwise, in the order of measurement."""

    ensembles: tuple[int, ...]
    dt: float  # of constant steps
    torch: tuple[int, ...]  # the ensembles that torchdiffeq, which is not compiled, solves too
    rober: tuple[int, ...]
    rober_end: float
    gradients: tuple[int, ...]
    neural: tuple[int, ...]
    points: int  # of the Brusselator, which has two unknowns at each
    wave: int  # points along a side
    waves: int
    states: tuple[int, ...]  # numbers of components
    widths: tuple[int, ...]  # of a network
    thresholds: tuple[int, ...]
    models: int  # number of models
    processor: tuple[int, ...]
    seconds: float  # for the runs of a comparison
    timeout: float  # seconds after which a compilation or a run is abandoned


FULL = Sizes(
    ensembles=(8192, 65_536, 1_048_576, 8_388_608, 1024, 128, 8),
    dt=1e-3,
    torch=(8192, 1_048_576),
    rober=(8192, 131_072),
    rober_end=1e5,
    gradients=(10_000, 1_000_000),
    neural=(1024, 65_536, 256),
    points=2048,
    wave=256,
    waves=16,
    states=(2, 4, 8, 16, 32),
    widths=(16, 32, 64),
    thresholds=(1024, 65_536),
    models=4,
    processor=(256, 1024, 65_536),
    seconds=1.0,
    timeout=45.0,
)
SMOKE = Sizes(
    ensembles=(64, 8),
    dt=1e-2,
    torch=(8,),
    rober=(16,),
    rober_end=10.0,
    gradients=(16,),
    neural=(16,),
    points=32,
    wave=8,
    waves=2,
    states=(4,),
    widths=(16,),
    thresholds=(16,),
    models=1,
    processor=(16,),
    seconds=0.05,
    timeout=120.0,
)
