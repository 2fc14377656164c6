"""Registers and spills of the compiled kernels, found on a machine without a GPU.

`python -m benchmarks.gpu.registers [name ...]`, after `pip install triton`. The kernels are traced
and compiled for an H100 by Triton, which need not be the release that is part of XLA. A thread has
255 registers; values without a register are spilled to memory, which makes a kernel wait.
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
from benchmarks.harness.folders import RESULTS
from benchmarks.harness.markdown import markdown_table
from benchmarks.problems.lorenz import lorenz_of_rho
from benchmarks.problems.lorenz_96 import lorenz_96
from jaxode.kernels.lowering import platform

TARGET = "__gpu$xla.gpu.triton"
DEVICE = ("NVIDIA H100 80GB HBM3", None, "cuda"), ("cuda", 90, 32)
PAGE = RESULTS / "kernels-h100.md"
COUNT = 4096


class Kernel(NamedTuple):
    """The Triton program of a kernel, and its number of warps."""

    program: str
    warps: int


class CompiledKernel(NamedTuple):
    """Registers and spilled bytes of a thread, bytes of code, and seconds to compile."""

    registers: int
    spilled: int
    code: int
    seconds: float


def robertson(t: Any, y: Any, k: Any) -> Any:
    """Robertson's reactions, with a factor of the first rate."""
    a, b, c = y
    first, second, third = 0.04 * k * a, 3e7 * b**2, 1e4 * b * c
    return jnp.stack([third - first, first - third - second, second])


def network(t: Any, y: Any, weights: Any) -> Any:
    """A network with two hidden layers."""
    first, bias, second, last = weights
    return last @ jnp.tanh(second @ jnp.tanh(first @ y + bias))


def ensemble_gradient(field: Callable, size: int, dtype: Any, **options: Any) -> Callable[[], Any]:
    """A maker of the gradient of an ensemble by initial states and parameters, and its inputs.

    The gradient has a forward and a backward kernel.
    """

    def make() -> Any:
        y0, parameters = jnp.ones((COUNT, size), dtype), jnp.ones(COUNT, dtype)
        return _gradient(field, y0, parameters, (0, None, 0), options)

    return make


def network_gradient(width: int, dtype: Any, **options: Any) -> Callable[[], Any]:
    """A maker of the gradient of an ensemble of neural ODEs by the shared weights."""

    def make() -> Any:
        shapes = (width, 2), (width,), (width, width), (2, width)
        weights = [jnp.ones(shape, dtype) for shape in shapes]
        y0 = jnp.ones((COUNT, 2), dtype)
        return _gradient(network, y0, weights, (0, None, None), options)

    return make


def _gradient(field: Callable, y0: Any, args: Any, axes: Any, options: dict[str, Any]) -> Any:
    """The gradient of a sum of squares by `y0` and `args`, and its inputs."""
    options = {"ts": (0.0, 1.0), "in_axes": axes, "kernel": True, **options}
    options["ts"] = jnp.asarray(options["ts"], y0.dtype)

    def loss(y0: Any, args: Any) -> Any:
        solution = jo.solve_batch(field, y0, args=args, **options)
        return jnp.sum(solution.ys**2)

    return jax.grad(loss, (0, 1)), (y0, args)


single, double = jnp.float32, jnp.float64
CASES: dict[str, Callable[[], Any]] = {
    "Lorenz, Tsit5": ensemble_gradient(lorenz_of_rho, 3, single),
    "Lorenz, Tsit5, double": ensemble_gradient(lorenz_of_rho, 3, double),
    "Lorenz, fixed steps": ensemble_gradient(lorenz_of_rho, 3, single, controller=jo.Fixed(1e-3)),
    "Lorenz, values at times": ensemble_gradient(lorenz_of_rho, 3, single, ts=(0.0, 0.3, 1.0)),
    "Lorenz, adjoint": ensemble_gradient(
        lorenz_of_rho, 3, single, sensitivity=jo.Continuous(restarts=0)
    ),
    "Robertson, Rodas5P, double": ensemble_gradient(robertson, 3, double, solver="rodas5p"),
    "Lorenz-96, size 8": ensemble_gradient(lorenz_96, 8, single),
    "Lorenz-96, size 8, double": ensemble_gradient(lorenz_96, 8, double),
    "Lorenz-96, size 16": ensemble_gradient(lorenz_96, 16, single),
    "Lorenz-96, size 16, double": ensemble_gradient(lorenz_96, 16, double),
    "network of width 16": network_gradient(16, single),
    "network of width 32": network_gradient(32, single),
    "network of width 64": network_gradient(64, single),
    "network of width 64, double": network_gradient(64, double),
}


def kernels(function: Callable, inputs: Any) -> Iterator[Kernel]:
    """The kernels of a program lowered for a GPU, which need not be present."""
    device = jax.sharding.AbstractDevice(*DEVICE[0])
    mesh = jax.sharding.AbstractMesh((1,), ("x",), abstract_device=device)
    checks = [jax.export.DisabledSafetyCheck.custom_call(TARGET)]
    with jax.sharding.use_abstract_mesh(mesh):
        exported = jax.export.export(jax.jit(function), platforms=["cuda"], disabled_checks=checks)(
            *inputs
        )
    configs = []

    def collect(operation: Any) -> Any:
        name = operation.attributes.get("call_target_name") if operation.attributes else None
        if name is not None and ir.StringAttr(name).value == TARGET:
            config = operation.attributes["mhlo.backend_config"]
            program = ir.StringAttr(config["ir"]).value_bytes
            configs.append((program, ir.IntegerAttr(config["num_warps"]).value))
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context():
        ir.Module.parse(exported.mlir_module()).operation.walk(collect)
    for program, warps in configs:
        with ir.Context() as context:
            dialect.register_dialect(context)
            text = ir.Module.parse(program).operation.get_asm(enable_debug_info=False)
        yield Kernel(str(text), warps)


def compile_kernel(kernel: Kernel, folder: pathlib.Path) -> CompiledKernel:
    """Compile a kernel to the device's code and read its resource usage."""
    # Triton is no dependency of the project.
    triton = importlib.import_module("triton")
    target = importlib.import_module("triton.backends.compiler").GPUTarget(*DEVICE[1])
    source, binary = folder / "kernel.ttir", folder / "kernel.cubin"
    source.write_text(kernel.program)
    begin = time.perf_counter()
    options = {"num_warps": kernel.warps, "num_stages": 1}
    binary_code = triton.compile(str(source), target=target, options=options)
    seconds = time.perf_counter() - begin
    binary.write_bytes(binary_code.asm["cubin"])
    tool = pathlib.Path(str(triton.__file__)).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    usage = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True)
    registers, spilled = re.findall(r"REG:(\d+) STACK:(\d+)", usage.stdout + usage.stderr)[-1]
    return CompiledKernel(int(registers), int(spilled), binary.stat().st_size, seconds)


def main(names: list[str]) -> None:
    """Compile the kernels of the cases named on the command line, or all and write the page."""
    jax.config.update("jax_enable_x64", True)
    warnings.filterwarnings("ignore")
    platform.backend = lambda: "gpu"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names or CASES:
            for row in case_rows(name, pathlib.Path(folder)):
                print(row, flush=True)
                rows.append(row)
    if not names:
        PAGE.write_text(page(rows))


def case_rows(name: str, folder: pathlib.Path) -> Iterator[list[str]]:
    """A row for the forward and one for the backward kernel of a case."""
    for direction, kernel in zip(("forward", "backward"), kernels(*CASES[name]()), strict=True):
        usage = compile_kernel(kernel, folder)
        yield [
            name, direction, str(kernel.warps), str(usage.registers), f"{usage.spilled} B",
            f"{usage.code / 2**10:.0f} KiB", f"{usage.seconds:.0f}",
        ]  # fmt: skip


def page(rows: list[list[str]]) -> str:
    """The page of results in Markdown."""
    triton = importlib.import_module("triton")
    head = (
        "# Kernels, compiled for an H100 without one\n\n"
        f"JAX {jax.__version__}, Triton {triton.__version__}, {time.strftime('%Y-%m-%d')}; "
        "`python -m benchmarks.gpu.registers`. Nothing was run: registers of a thread (of 255), "
        "bytes that it spills, size of the code, seconds to compile on one core.\n\n"
    )
    columns = "solve", "kernel", "warps", "registers", "spilled", "code", "seconds"
    return head + "\n".join(markdown_table(columns, rows)) + "\n"


if __name__ == "__main__":
    main(sys.argv[1:])
