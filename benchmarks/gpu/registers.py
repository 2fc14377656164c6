"""What a GPU's compiler makes of the kernels, on a machine without one: registers and spills.

`python -m benchmarks.gpu.registers [name ...]`, after `pip install triton`. The kernels are made
for an H100 and compiled for it by Triton, which need not be the release that is part of XLA. Each
thread has 255 registers; numbers that find none are spilled to memory, and then a kernel waits.
"""

import importlib
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.interpreters import mlir
from jaxlib.mlir import ir
from jaxlib.triton import dialect

import jaxode as jo
from jaxode.kernels.lowering import platform

TARGET = "__gpu$xla.gpu.triton"
CARD = ("NVIDIA H100 80GB HBM3", None, "cuda"), ("cuda", 90, 32)
RESULTS = pathlib.Path(__file__).parent.parent / "results" / "kernels-h100.md"
COUNT = 4096


class Kernel(NamedTuple):
    """The Triton program of a kernel, and with how many warps it runs."""

    program: str
    warps: int


class Compiled(NamedTuple):
    """Registers of a thread, bytes that it spills, of its code, and seconds to compile."""

    registers: int
    spilled: int
    code: int
    seconds: float


def ring(t: Any, y: Any, force: Any) -> Any:
    """Lorenz's system of 1996."""
    return (jnp.roll(y, -1) - jnp.roll(y, 2)) * jnp.roll(y, 1) - y + force


def lorenz(t: Any, y: Any, rho: Any) -> Any:
    """Lorenz's system of 1963."""
    a, b, c = y
    return jnp.stack([10.0 * (b - a), a * (rho - c) - b, a * b - 8.0 / 3.0 * c])


def robertson(t: Any, y: Any, k: Any) -> Any:
    """Robertson's reactions."""
    a, b, c = y
    first, second, third = 0.04 * k * a, 3e7 * b**2, 1e4 * b * c
    return jnp.stack([third - first, first - third - second, second])


def network(t: Any, y: Any, weights: Any) -> Any:
    """Two hidden layers."""
    first, bias, second, last = weights
    return last @ jnp.tanh(second @ jnp.tanh(first @ y + bias))


def gradient(field: Callable, size: int, dtype: Any, **options: Any) -> Callable[[], Any]:
    """The gradient of a batch by its starts and parameters: a forward and a backward kernel."""

    def make() -> Any:
        y0, own = jnp.ones((COUNT, size), dtype), jnp.ones(COUNT, dtype)
        return _gradient(field, y0, own, (0, None, 0), options)

    return make


def of_network(width: int, dtype: Any, **options: Any) -> Callable[[], Any]:
    """The same of a network of two hidden layers, by its weights."""

    def make() -> Any:
        shapes = (width, 2), (width,), (width, width), (2, width)
        weights = [jnp.ones(shape, dtype) for shape in shapes]
        y0 = jnp.ones((COUNT, 2), dtype)
        return _gradient(network, y0, weights, (0, None, None), options)

    return make


def _gradient(field: Callable, y0: Any, args: Any, axes: Any, options: dict[str, Any]) -> Any:
    options = {"ts": (0.0, 1.0), "in_axes": axes, "kernel": True, **options}
    options["ts"] = jnp.asarray(options["ts"], y0.dtype)

    def loss(y0: Any, args: Any) -> Any:
        sols = jo.solve_batch(field, y0, args=args, **options)
        return jnp.sum(sols.ys**2)

    return jax.grad(loss, (0, 1)), (y0, args)


single, double = jnp.float32, jnp.float64
CASES: dict[str, Callable[[], Any]] = {
    "Lorenz, Tsit5": gradient(lorenz, 3, single),
    "Lorenz, Tsit5, double": gradient(lorenz, 3, double),
    "Lorenz, fixed steps": gradient(lorenz, 3, single, controller=jo.Fixed(1e-3)),
    "Lorenz, values at times": gradient(lorenz, 3, single, ts=(0.0, 0.3, 1.0)),
    "Lorenz, adjoint": gradient(lorenz, 3, single, sensitivity="adjoint"),
    "Robertson, Rodas5P, double": gradient(robertson, 3, double, solver="rodas5p"),
    "ring of 8": gradient(ring, 8, single),
    "ring of 8, double": gradient(ring, 8, double),
    "ring of 16": gradient(ring, 16, single),
    "ring of 16, double": gradient(ring, 16, double),
    "network of width 16": of_network(16, single),
    "network of width 32": of_network(32, single),
    "network of width 64": of_network(64, single),
    "network of width 64, double": of_network(64, double),
}


def kernels(function: Callable, inputs: Any) -> Iterator[Kernel]:
    """The kernels of a program for a GPU that need not be here."""
    device = jax.sharding.AbstractDevice(*CARD[0])
    mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
    checks = [jax.export.DisabledSafetyCheck.custom_call(TARGET)]
    with jax.sharding.use_abstract_mesh(mesh):
        exported = jax.export.export(jax.jit(function), platforms=["cuda"], disabled_checks=checks)(
            *inputs
        )
    configs = []

    def visit(operation: Any) -> Any:
        name = operation.attributes.get("call_target_name") if operation.attributes else None
        if name is not None and ir.StringAttr(name).value == TARGET:
            config = operation.attributes["mhlo.backend_config"]
            program = ir.StringAttr(config["ir"]).value_bytes
            configs.append((program, ir.IntegerAttr(config["num_warps"]).value))
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context():
        ir.Module.parse(exported.mlir_module()).operation.walk(visit)
    for program, warps in configs:
        with ir.Context() as context:
            dialect.register_dialect(context)
            text = ir.Module.parse(program).operation.get_asm(enable_debug_info=False)
        yield Kernel(str(text), warps)


def compiled(kernel: Kernel, folder: pathlib.Path) -> Compiled:
    """The kernel as code of the card."""
    triton = importlib.import_module("triton")  # no requirement of the project's
    place = importlib.import_module("triton.backends.compiler").GPUTarget(*CARD[1])
    source, binary = folder / "kernel.ttir", folder / "kernel.cubin"
    source.write_text(kernel.program)
    begun = time.perf_counter()
    options = {"num_warps": kernel.warps, "num_stages": 1}
    found = triton.compile(str(source), target=place, options=options)
    seconds = time.perf_counter() - begun
    binary.write_bytes(found.asm["cubin"])
    tool = pathlib.Path(str(triton.__file__)).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True)
    registers, spilled = re.findall(r"REG:(\d+) STACK:(\d+)", usage.stdout + usage.stderr)[-1]
    return Compiled(int(registers), int(spilled), binary.stat().st_size, seconds)


def main(names: list[str]) -> None:
    """Compile the kernels and write the table."""
    jax.config.update("jax_enable_x64", True)
    warnings.filterwarnings("ignore")
    platform.backend = lambda: "gpu"
    triton = importlib.import_module("triton")
    lines = [
        "# Kernels, compiled for an H100 without one",
        "",
        f"JAX {jax.__version__}, Triton {triton.__version__}, {time.strftime('%Y-%m-%d')}; "
        "`python -m benchmarks.gpu.registers`. Nothing was run: registers of a thread (of 255), "
        "bytes that it spills, size of the code, seconds to compile on one core.",
        "",
        "| solve | kernel | warps | registers | spilled | code | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for name in names or CASES:
            for way, kernel in zip(("forward", "backward"), kernels(*CASES[name]()), strict=True):
                found = compiled(kernel, pathlib.Path(folder))
                row = (
                    f"| {name} | {way} | {kernel.warps} | {found.registers} | {found.spilled} B "
                    f"| {found.code / 2**10:.0f} KiB | {found.seconds:.0f} |"
                )
                print(row, flush=True)
                lines.append(row)
    if not names:
        RESULTS.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
