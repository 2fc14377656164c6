"""A summary of the section `thresholds`: up to which size a kernel is faster than XLA."""

import math
import re
from collections.abc import Mapping, Sequence

from benchmarks.gpu.ensemble_jobs import KERNEL, XLA
from benchmarks.gpu.jobs import JobKey, Measurement

COLUMNS = "ensembles", "XLA's time over the kernel's, by size"
NOT_RUN = "not run"


def speedup_lines(
    measurements: Mapping[JobKey, Measurement], names: Sequence[str]
) -> list[Sequence[str]]:
    """The lines of the table; a name is a work with `{}` for the size."""
    return [(name.replace(" {}", ""), kernel_speedup(measurements, name)) for name in names]


def kernel_speedup(measurements: Mapping[JobKey, Measurement], name: str) -> str:
    """The ratios of XLA's time to the kernel's, by number of trajectories and by size."""
    pattern = re.compile(re.escape(name).replace(r"\{\}", r"(\d+)"))
    ratios: dict[int, dict[int, float]] = {}
    for key, kernel in measurements.items():
        matched = pattern.fullmatch(key.work)
        if key.section == "thresholds" and key.method == KERNEL and matched and not kernel.failure:
            xla = measurements[key._replace(method=XLA)]
            ratio = math.inf if xla.failure else xla.ms / kernel.ms
            ratios.setdefault(key.count, {})[int(matched[1])] = ratio
    texts = []
    for count, by_size in sorted(ratios.items()):
        listed = ", ".join(f"{size}: {by_size[size]:.3g}x" for size in sorted(by_size))
        texts.append(f"N = {count:,}: {listed}, so {_faster_up_to(by_size)}")
    return "; ".join(texts) or NOT_RUN


def _faster_up_to(ratios: Mapping[int, float]) -> str:
    """The largest size up to which a kernel is not slower."""
    largest = None
    for size in sorted(ratios):
        if ratios[size] < 1:
            break
        largest = size
    return "it does not pay" if largest is None else f"it pays up to {largest}"
