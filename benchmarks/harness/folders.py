"""Files and folders that the benchmarks write to."""

import pathlib

_BENCHMARKS = pathlib.Path(__file__).parents[1]
RESULTS = _BENCHMARKS / "results"
# The pages and the data of the modules of `benchmarks.accuracy`.
TRAINED = _BENCHMARKS.parent / "docs" / "results"
