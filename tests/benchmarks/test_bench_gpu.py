"""The parts of the GPU benchmark that can be checked without a GPU."""

import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gpu import flops, supervisor
from benchmarks.gpu.device import Device
from benchmarks.gpu.ensemble import GpuEnsemble, error, forward, gradient, jaxode_ends
from benchmarks.gpu.ensemble_jobs import DIFFRAX, KERNEL, XLA
from benchmarks.gpu.jobs import JobKey, Measurement, SectionPlan, chunks
from benchmarks.gpu.kernel_speedup import NOT_RUN, kernel_speedup
from benchmarks.gpu.networks import network_ensemble, network_field
from benchmarks.gpu.profiling import device_activity, union_length
from benchmarks.gpu.report import not_run_page, report_page
from benchmarks.gpu.sections import thresholds
from benchmarks.gpu.sizes import SMOKE
from benchmarks.gpu.worker import SectionOrder
from benchmarks.problems.lorenz import lorenz_of_rho

DEVICE = Device("NVIDIA H100 80GB HBM3", True, "driver 1", "jax 1")


def measured(section, work, count, method, ms, **more):
    key = JobKey(section, work, count, method)
    return Measurement(key, ms=ms, rounds=5, mean_steps=100.0, failure="", **more)


def by_key(*measurements):
    return {measurement.key: measurement for measurement in measurements}


def test_without_a_gpu_the_page_says_so():
    assert "Not run: no GPU" in not_run_page("no GPU", "jax 1")
    assert all(kernel_speedup({}, work) == NOT_RUN for work in thresholds.WORKS)


def test_where_a_kernel_pays():
    work = f"{thresholds.STATE} {{}}, forward"
    assert work in thresholds.WORKS
    measurements = by_key(
        *(measured("thresholds", work.format(n), 64, XLA, 8.0) for n in (2, 8, 16)),
        *(
            measured("thresholds", work.format(n), 64, KERNEL, ms)
            for n, ms in ((2, 1.0), (8, 4.0), (16, 9.0))
        ),
    )
    text = kernel_speedup(measurements, work)
    assert text == "N = 64: 2: 8x, 8: 2x, 16: 0.889x, so it pays up to 8"


def test_the_page_has_every_measurement_and_failure():
    good = measured("lorenz", "w", 1000, KERNEL, 1.0, flops=250.0, error=1e-6, compile_seconds=2.0)
    failed = Measurement(
        JobKey("lorenz", "w", 1000, DIFFRAX), failure="XlaRuntimeError: out of memory"
    )
    measurements = by_key(good, measured("lorenz", "w", 1000, XLA, 3.0), failed)
    section = SectionPlan("Title", "Text.", XLA, list(measurements))
    text = report_page(DEVICE, [section], measurements, ["models: died"], 12.0, "")
    assert good.ns_per_step == pytest.approx(10.0) and good.gflops == pytest.approx(25.0)
    assert "| w | 1,000 | kernel | 1 | 5 | 3 | 2.0 | 100 | 1.0e-06 | 10 | 25 | 0.04% |" in text
    assert "XlaRuntimeError: out of memory" in text and "models: died" in text
    columns = [line.count("|") for line in text.splitlines() if line.startswith("| w |")]
    assert len(set(columns)) == 1


def test_operations_of_fields():
    number, state = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.float32)
    assert flops.field_flops(lorenz_of_rho, number, state, number) == 8
    assert flops.step_flops(lorenz_of_rho, number, state, "tsit5") == 6 * 8 + 3 * 62
    args, y0 = network_ensemble(4, 2).trajectory_shapes
    layers = 2 * (2 * 4 + 4 * 4 + 4 * 2) + (4 + 4 + 2) + (4 + 4)  # products, shifts, tanh
    assert flops.field_flops(network_field, number, y0, args) == layers


def decay(t, y, rate):
    return -rate * y


@pytest.mark.slow
@pytest.mark.parametrize("quantity", [forward, gradient])
def test_errors_are_those_of_a_sample(quantity):
    rates = np.linspace(0.5, 2.0, 100)
    ensemble = GpuEnsemble(decay, rates, np.ones(1), 1.0, (0, None), 1e-4, 1e-6, dt=0.1)
    value = jax.jit(quantity(jaxode_ends(ensemble)))(*ensemble.inputs).value
    assert 0 < error(ensemble, quantity, value) < 1e-3
    assert math.isinf(error(ensemble, quantity, jax.tree.map(lambda x: x * np.nan, value)))
    twice = error(ensemble, quantity, jax.tree.map(lambda x: 2 * x, value))
    assert twice == pytest.approx(1, abs=0.01)


def test_activity_of_the_device():
    def event(name, start, length):
        return types.SimpleNamespace(name=name, start_ns=start, duration_ns=length)

    def line(name, *events):
        return types.SimpleNamespace(name=name, events=events)

    stream = line("Stream #1", event("fusion", 0, 2e6), event("MemcpyD2H", 1e6, 2e6))
    device = types.SimpleNamespace(name="/device:GPU:0", lines=[stream, line("XLA Ops")])
    host = types.SimpleNamespace(name="/host:CPU", lines=[stream])
    assert device_activity(types.SimpleNamespace(planes=[device, host])) == (3.0, 1)
    assert device_activity(types.SimpleNamespace(planes=[host])) is None
    assert union_length([(0, 1), (3, 5), (4, 6), (3, 4)]) == 4


def test_comparisons_are_compiled_whole():
    keys = [JobKey("a", "w", n, method) for method in (KERNEL, XLA) for n in (1, 2, 3)]
    found = list(chunks(keys, 3))
    assert [len(chunk) for chunk in found] == [2, 1]
    assert found[0][0] == [JobKey("a", "w", 1, KERNEL), JobKey("a", "w", 1, XLA)]


def test_a_process_that_dies_loses_only_the_running_jobs(tmp_path, monkeypatch):
    keys = [JobKey("a", "w", n, KERNEL) for n in range(1, 5)]
    results = supervisor.Results(DEVICE, tmp_path, 0.0)
    results.add_section(SectionPlan("Title", "Text.", XLA, keys), [Measurement(k) for k in keys])
    ends = [
        (
            keys[:1],
            supervisor._ProcessEnd("died", tuple(keys[1:])),
        ),  # one of the three that were compiled
        ([], supervisor._ProcessEnd("died", (keys[1],))),  # compiled alone
        ([], supervisor._ProcessEnd("late", (keys[2],), timed_out=True)),
        (keys[3:], supervisor._ProcessEnd(None)),
    ]
    orders = []

    def run_process(order, results):
        orders.append(order)
        good, end = ends[len(orders) - 1]
        for key in good:
            results.add(measured(key.section, key.work, key.count, key.method, 1.0))
        return end

    monkeypatch.setattr(supervisor, "_run_process", run_process)
    supervisor._run_section(SectionOrder("a", SMOKE, 0.0), results)
    assert [results.measurements[key].failure for key in keys] == ["", "died", "late", ""]
    assert [order.one_by_one for order in orders] == [False, True, False, False]
    assert orders[-1].done == frozenset(keys[:3])
    assert "| late |" in (tmp_path / f"{DEVICE.slug}.md").read_text()


def test_a_process_that_dies_before_its_first_job_is_not_restarted(tmp_path, monkeypatch):
    results = supervisor.Results(DEVICE, tmp_path, 0.0)
    monkeypatch.setattr(supervisor, "_run_process", lambda *_: supervisor._ProcessEnd("no device"))
    supervisor._run_section(SectionOrder("a", SMOKE, 0.0), results)
    assert results.problems == ["a: no device"]
