"""Files and folders that the benchmarks write to."""

import pathlib

_BENCHMARKS = pathlib.Path(__file__).parents[1]
RESULTS = _BENCHMARKS / "results"
# The page with a section for each module of `benchmarks.accuracy`.
ACCURACY_PAGE = _BENCHMARKS.parent / "docs" / "results.md"
