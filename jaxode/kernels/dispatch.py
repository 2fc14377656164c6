"""The choice between one kernel and the loop over tiles, and the reasons that rule out a kernel."""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from ..integrate.ensemble import Ensemble
from ..integrate.step import UNBOUNDED_STEPS, step_times
from ..problem.errors import OptionError
from ..solvers.base import Solver
from .inputs import trajectory_shapes
from .lowering import platform
from .lowering.block_arrays import stored_as_blocks
from .lowering.unsupported import NoKernelError, refuse_extended

# Lanes of a block: two warps of a GPU. A block ends with its last lane, so a small block idles
# less; a GPU runs 32 blocks at once on each multiprocessor, so a smaller one would not fill it.
# On a TPU a block fills one register.
GPU_LANES, TPU_LANES = 64, 1024
# Largest sizes of a state, of an implicit solver's state, and of the shared arrays: a kernel keeps
# them in registers, and unrolls its operations over their elements.
MAX_STATE_SIZE, MAX_IMPLICIT_SIZE, MAX_SHARED_SIZE = 32, 12, 256
# Largest state, in bytes, for which `kernel="auto"` selects a kernel: compiled for an H100, those
# of Tsit5 and Rodas5P then spill at most 24 bytes, forwards or backwards (benchmarks/results).
REGISTER_BYTES, IMPLICIT_REGISTER_BYTES = 64, 32
# Largest width of a network's layer: a lane holds its vectors as rows of block arrays.
MAX_LAYER_WIDTH = 64
# True once measurements on a GPU show where kernels pay; until then "auto" selects none.
MEASURED_ON_GPU = False


class KernelPolicy(NamedTuple):
    """The user's choice: "auto" for a kernel where it pays, True for one or an error, or False."""

    kernel: Literal["auto"] | bool
    lanes: int

    @property
    def use_kernel(self) -> bool:
        """Tell whether to try a kernel; "auto" does so on a GPU only."""
        if self.kernel == "auto":
            return MEASURED_ON_GPU and platform.backend() == "gpu"
        return self.kernel


def find_kernel_policy(kernel: Any, lanes: int | None) -> KernelPolicy:
    """Return the policy. **Raises:** `OptionError` unless `kernel` is "auto" or a boolean."""
    if not isinstance(kernel, bool) and not (isinstance(kernel, str) and kernel == "auto"):
        raise OptionError(f'kernel must be "auto", True or False, got {kernel!r}')
    if lanes is None:
        return KernelPolicy(kernel, TPU_LANES if platform.backend() == "tpu" else GPU_LANES)
    return KernelPolicy(kernel, 1 << lanes.bit_length() - 1)


def check_kernel(ensemble: Ensemble, forced: bool) -> None:
    """Check that a kernel supports the options and sizes of a batch.

    `forced`: the user gave `kernel=True`, so that it need not be faster.

    **Raises:** `NoKernelError`, with the reason, where it does not.
    """
    problem, config = trajectory_shapes(ensemble)
    if ensemble.has_events:
        raise NoKernelError("events and jumps are not looked for there")
    if config.save not in ("ends", "ts"):
        raise NoKernelError(f'save="{config.save}" is not written there')
    if config.save == "ts" and platform.backend() == "tpu":
        raise NoKernelError("a TPU writes at no index per lane: it has end states alone")
    if config.method.progress is not None:
        raise NoKernelError("progress= calls the host")
    if config.method.max_steps == UNBOUNDED_STEPS:
        raise NoKernelError("max_steps=None leaves its memory without a bound")
    if step_times(config.method) is not None:
        raise NoKernelError("steps that end on given times are not cut there")
    dtype = problem.y0.dtype
    if dtype not in (jnp.float32, jnp.float64):
        raise NoKernelError(f"a state of {dtype} (float32 and float64 have kernels)")
    check_solver(config.method.solver, problem.y0.size)
    if not forced:
        check_register_size(config.method.solver, problem.y0)
    check_dtypes(ensemble)
    check_shared(ensemble)


def check_register_size(solver: Solver, y: Array) -> None:
    """Check that the state fits the registers. **Raises:** `NoKernelError` if it does not."""
    size = y.size * y.dtype.itemsize
    if size > (IMPLICIT_REGISTER_BYTES if solver.implicit else REGISTER_BYTES):
        raise NoKernelError(f"a state of {size} bytes does not pay there")


def check_dtypes(ensemble: Ensemble) -> None:
    """Check that all arrays hold numbers. **Raises:** `NoKernelError` if one does not."""
    for x in jax.tree.leaves((ensemble.per_trajectory, ensemble.shared)):
        refuse_extended(getattr(x, "dtype", None))


def check_shared(ensemble: Ensemble) -> None:
    """Check the shared arrays. **Raises:** `NoKernelError` for too many, or too wide a layer."""
    problem = ensemble.shared[0]
    tree = problem.field, problem.args, problem.save_fn, problem.jac
    arrays = [x for x in jax.tree.leaves(tree) if eqx.is_array(x)]
    as_block = stored_as_blocks([x.shape for x in arrays])
    shared = sum(x.size for x, flag in zip(arrays, as_block, strict=True) if not flag)
    if shared > MAX_SHARED_SIZE:
        raise NoKernelError(
            f"{shared} numbers that all share are too many (at most {MAX_SHARED_SIZE})"
        )
    if any(as_block) and platform.backend() == "tpu":
        raise NoKernelError("a network (on a TPU no kernel has one)")
    widest = max(
        [max(x.shape) for x, flag in zip(arrays, as_block, strict=True) if flag], default=0
    )
    if widest > MAX_LAYER_WIDTH:
        raise NoKernelError(f"a network of width {widest} is too wide (at most {MAX_LAYER_WIDTH})")


def check_solver(solver: Solver, size: int) -> None:
    """Check that the solver has kernels of that `size`. **Raises:** `NoKernelError` if not."""
    reason = solver.why_no_kernel()
    if reason is not None:
        raise NoKernelError(reason)
    max_size = MAX_IMPLICIT_SIZE if solver.implicit else MAX_STATE_SIZE
    if size > max_size:
        kind = "of an implicit solver " if solver.implicit else ""
        raise NoKernelError(f"a state {kind}of {size} numbers is too large (at most {max_size})")


def kernel_refusal(reason: NoKernelError) -> OptionError:
    """Return the error for a user who gave `kernel=True`."""
    return OptionError(
        f"kernel=True, but there is no kernel for this solve: {reason}. With "
        'kernel="auto" it runs without one'
    )
