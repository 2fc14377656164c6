"""What of the benchmark for GPUs can be checked without one."""

import dataclasses
import math
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.gpu import flops, networks
from benchmarks.gpu import kernel_speedup as asked
from benchmarks.gpu import supervisor as supervise
from benchmarks.gpu.device import Card
from benchmarks.gpu.ensemble import Ensemble, by_jaxode, error, forward, gradient
from benchmarks.gpu.ensemble_jobs import DIFFRAX, KERNEL, XLA
from benchmarks.gpu.jobs import Key, Part, Row, chunks
from benchmarks.gpu.profiling import covered, summed
from benchmarks.gpu.report import not_run, page
from benchmarks.gpu.sections import lorenz, neural, thresholds
from benchmarks.gpu.sizes import SMOKE
from benchmarks.gpu.worker import Order

CARD = Card("NVIDIA H100 80GB HBM3", True, "driver 1", "jax 1")


def row(section, work, count, by, ms, **more):
    return Row(Key(section, work, count, by), ms=ms, turns=5, steps=100.0, failure="", **more)


def named(*rows):
    return {row.key: row for row in rows}


def seen(rows, work, asked_for):
    (line,) = [x for x in asked.table_of_wishes(rows) if x[:2] == (work, asked_for)]
    return line[2:]


def test_without_a_gpu_every_line_says_so():
    text = not_run("no GPU", "jax 1")
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert len(lines) == len(asked.WISHES)
    assert all(f"| {asked.NOT_RUN} |" in line for line in lines)
    assert "Not run: no GPU" in text


def test_ratios_are_read_off_the_rows_that_were_asked_about():
    rows = named(
        *(row("lorenz", lorenz.ADAPTIVE, n, KERNEL, 1.0, error=1e-6) for n in (8, 8192, 65_536)),
        *(row("lorenz", lorenz.ADAPTIVE, n, XLA, 2.0) for n in (8, 8192, 65_536)),
        *(row("lorenz", lorenz.ADAPTIVE, n, DIFFRAX, n / 200, error=2e-6) for n in (8, 8192)),
        Row(Key("lorenz", lorenz.ADAPTIVE, 65_536, DIFFRAX), failure="out of memory"),
    )
    wish = "Lorenz, adaptive steps, from 8,192 on", "30x over diffrax"
    assert seen(rows, *wish) == ("8,192: 41x (errors 1e-06, 2e-06); 65,536: no diffrax", "")
    assert seen(rows, "Lorenz, adaptive, kernel", "never slower than our own XLA path")[1] == "met"
    slow = Key("lorenz", lorenz.ADAPTIVE, 8192, DIFFRAX)
    rows[slow] = dataclasses.replace(rows[slow], ms=20.0)
    assert seen(rows, *wish)[1] == "missed"


def test_the_processor_is_compared_with_the_faster_of_ours():
    rows = named(
        row("neural", neural.TRAINING, 256, KERNEL, 4.0),
        row("neural", neural.TRAINING, 256, XLA, 2.0),
        row("processor", neural.TRAINING, 256, XLA, 6.0),
    )
    found = seen(rows, "its training step, from 256 samples on", "faster than on the processor")
    assert found[0].startswith("256: 3x") and found[1] == "met"


def test_where_a_kernel_pays():
    rows = named(
        *(row("thresholds", f"{thresholds.STATE} {n}, forward", 64, XLA, 8.0) for n in (2, 8, 16)),
        *(
            row("thresholds", f"{thresholds.STATE} {n}, forward", 64, KERNEL, ms)
            for n, ms in ((2, 1.0), (8, 4.0), (16, 9.0))
        ),
    )
    text, _ = seen(rows, "Lorenz-96, state: XLA over kernel, forward", "where it pays")
    assert text == "N = 64: 2: 8x, 8: 2x, 16: 0.889x, so it pays up to 8"


def test_the_page_has_what_was_asked_for():
    good = row("lorenz", "w", 1000, KERNEL, 1.0, flops=250.0, error=1e-6, compiled=2.0)
    bad = Row(Key("lorenz", "w", 1000, DIFFRAX), failure="XlaRuntimeError: out of memory")
    rows = named(good, row("lorenz", "w", 1000, XLA, 3.0), bad)
    part = Part("Title", "Text.", XLA, list(rows))
    text = page(CARD, [part], rows, ["models: died"], 12.0, "")
    assert good.ns_per_step == pytest.approx(10.0) and good.gflops == pytest.approx(25.0)
    assert "| w | 1,000 | kernel | 1 | 5 | 3 | 2.0 | 100 | 1.0e-06 | 10 | 25 | 0.04% |" in text
    assert "XlaRuntimeError: out of memory" in text and "models: died" in text
    columns = [line.count("|") for line in text.splitlines() if line.startswith("| w |")]
    assert len(set(columns)) == 1


def test_operations_of_fields():
    number, state = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((3,), jnp.float32)
    assert flops.of_field(lorenz.field, number, state, number) == 8
    assert flops.of_step(lorenz.field, number, state, "tsit5") == 6 * 8 + 3 * 62
    args, y0 = networks.ensemble(4, 2).one
    layers = 2 * (2 * 4 + 4 * 4 + 4 * 2) + (4 + 4 + 2) + (4 + 4)  # products, shifts, tanh
    assert flops.of_field(networks.field, number, y0, args) == layers


def decay(t, y, rate):
    return -rate * y


@pytest.mark.parametrize("what", [forward, gradient])
def test_errors_are_those_of_a_sample(what):
    rates = np.linspace(0.5, 2.0, 100)
    ensemble = Ensemble(decay, rates, np.ones(1), 1.0, (0, None), 1e-4, 1e-6, dt=0.1)
    value = jax.jit(what(by_jaxode(ensemble)))(*ensemble.inputs).value
    assert 0 < error(ensemble, what, value) < 1e-3
    assert math.isinf(error(ensemble, what, jax.tree.map(lambda x: x * np.nan, value)))
    twice = error(ensemble, what, jax.tree.map(lambda x: 2 * x, value))
    assert twice == pytest.approx(1, abs=0.01)


def test_what_the_profiler_saw():
    def event(name, start, length):
        return types.SimpleNamespace(name=name, start_ns=start, duration_ns=length)

    def line(name, *events):
        return types.SimpleNamespace(name=name, events=events)

    stream = line("Stream #1", event("fusion", 0, 2e6), event("MemcpyD2H", 1e6, 2e6))
    device = types.SimpleNamespace(name="/device:GPU:0", lines=[stream, line("XLA Ops")])
    host = types.SimpleNamespace(name="/host:CPU", lines=[stream])
    assert summed(types.SimpleNamespace(planes=[device, host])) == (3.0, 1)
    assert summed(types.SimpleNamespace(planes=[host])) is None
    assert covered([(0, 1), (3, 5), (4, 6), (3, 4)]) == 4


def test_comparisons_are_compiled_whole():
    keys = [Key("a", "w", n, by) for by in (KERNEL, XLA) for n in (1, 2, 3)]
    found = list(chunks(keys, 3))
    assert [len(chunk) for chunk in found] == [2, 1]
    assert found[0][0] == [Key("a", "w", 1, KERNEL), Key("a", "w", 1, XLA)]


def test_a_process_that_dies_loses_what_was_at_work_alone(tmp_path, monkeypatch):
    keys = [Key("a", "w", n, KERNEL) for n in range(1, 5)]
    findings = supervise.Findings(CARD, tmp_path, 0.0)
    findings.plan(Part("Title", "Text.", XLA, keys), [Row(key) for key in keys])
    ends = [
        (keys[:1], supervise._End("died", tuple(keys[1:]))),  # one of three that were compiled
        ([], supervise._End("died", (keys[1],))),  # singly: this one
        ([], supervise._End("late", (keys[2],), late=True)),
        (keys[3:], supervise._End(None)),
    ]
    orders = []

    def process(order, findings):
        orders.append(order)
        good, end = ends[len(orders) - 1]
        for key in good:
            findings.add(row(key.section, key.work, key.count, key.by, 1.0))
        return end

    monkeypatch.setattr(supervise, "_one_process", process)
    supervise._section(Order("a", SMOKE, 0.0), findings)
    assert [findings.rows[key].failure for key in keys] == ["", "died", "late", ""]
    assert [order.singly for order in orders] == [False, True, False, False]
    assert orders[-1].done == frozenset(keys[:3])
    assert "| late |" in (tmp_path / f"{CARD.slug}.md").read_text()


def test_what_dies_before_it_begins_is_not_started_for_ever(tmp_path, monkeypatch):
    findings = supervise.Findings(CARD, tmp_path, 0.0)
    monkeypatch.setattr(supervise, "_one_process", lambda *_: supervise._End("no device"))
    supervise._section(Order("a", SMOKE, 0.0), findings)
    assert findings.troubles == ["a: no device"]
