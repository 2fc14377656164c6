"""What carries a batch out: the loop over tiles, or one kernel; and why there is no kernel."""

from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from ..integrate.ensemble import Ensemble
from ..problem.errors import OptionError
from ..solvers.base import Solver
from .lowering import platform
from .lowering.block_arrays import stored_as_blocks
from .lowering.unsupported import NoKernelError, refuse_extended

# Lanes of a block: two warps. A block ends with its last lane, so fewer wait less; a GPU holds 32
# blocks at once on each of its processors, so fewer would leave it half empty. A TPU's are one
# register's.
GPU_LANES, TPU_LANES = 64, 1024
# Numbers of a state, of one whose steps solve systems, and of what all lanes share: a kernel keeps
# them in registers, and has each of its operations written out for each of them.
MAX_STATE_SIZE, MAX_IMPLICIT_SIZE, MAX_SHARED_SIZE = 32, 12, 256
# Bytes of a state up to which a kernel is taken of itself: compiled for an H100, those of Tsit5 and
# Rodas5P spill 24 bytes at most up to there, forwards or backwards (benchmarks/results).
REGISTER_BYTES, IMPLICIT_REGISTER_BYTES = 64, 32
# The widest layer of a network: its vectors are kept whole, a row of a block for each lane.
MAX_LAYER_WIDTH = 64
# Whether it has been measured on a GPU where kernels pay: until then none is taken of itself.
MEASURED_ON_GPU = False


class KernelPolicy(NamedTuple):
    """What is wished for: a kernel where it pays ("auto"), or else an error, or none at all."""

    kernel: Literal["auto"] | bool
    lanes: int

    @property
    def use_kernel(self) -> bool:
        """Whether a kernel is tried: of itself on a GPU alone, for others have no compiler."""
        if self.kernel == "auto":
            return MEASURED_ON_GPU and platform.backend() == "gpu"
        return self.kernel


def find_kernel_policy(kernel: Any, lanes: int | None) -> KernelPolicy:
    """**Raises:** `OptionError` unless `kernel` is "auto" or a boolean."""
    if not (isinstance(kernel, bool) or kernel == "auto"):
        raise OptionError(f'kernel must be "auto", True or False, got {kernel!r}')
    if lanes is None:
        return KernelPolicy(kernel, TPU_LANES if platform.backend() == "tpu" else GPU_LANES)
    return KernelPolicy(kernel, 1 << lanes.bit_length() - 1)


def check_kernel(ensemble: Ensemble, asked: bool) -> None:
    """**Raises:** `NoKernelError` where the options or the sizes of a batch rule out a kernel.

    `asked`: by the user, so that it need not pay.
    """
    rows = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), ensemble.per_trajectory
    )
    problem, plan = ensemble.one(rows)
    if ensemble.has_events:
        raise NoKernelError("events and jumps are not looked for there")
    if plan.save not in ("ends", "ts"):
        raise NoKernelError(f'save="{plan.save}" is not written there')
    if plan.save == "ts" and platform.backend() == "tpu":
        raise NoKernelError("a TPU writes at no index per lane: it has end states alone")
    if plan.method.progress is not None:
        raise NoKernelError("progress= calls the host")
    dtype = problem.y0.dtype
    if dtype not in (jnp.float32, jnp.float64):
        raise NoKernelError(f"a state of {dtype} (float32 and float64 have kernels)")
    check_solver(plan.method.solver, problem.y0.size)
    if not asked:
        check_register_size(plan.method.solver, problem.y0)
    check_dtypes(ensemble)
    check_shared(ensemble)


def check_register_size(solver: Solver, y: Array) -> None:
    """**Raises:** `NoKernelError` for a state that fits no registers."""
    size = y.size * y.dtype.itemsize
    if size > (IMPLICIT_REGISTER_BYTES if solver.implicit else REGISTER_BYTES):
        raise NoKernelError(f"a state of {size} bytes does not pay there")


def check_dtypes(ensemble: Ensemble) -> None:
    """**Raises:** `NoKernelError` for arrays that hold no numbers."""
    for x in jax.tree.leaves((ensemble.per_trajectory, ensemble.shared)):
        refuse_extended(getattr(x, "dtype", None))


def check_shared(ensemble: Ensemble) -> None:
    """**Raises:** `NoKernelError` for numbers that all share, too many or of too wide a network."""
    part = ensemble.shared[0]
    given = part.field, part.args, part.read, part.jac
    arrays = [x for x in jax.tree.leaves(given) if eqx.is_array(x)]
    whole = stored_as_blocks([x.shape for x in arrays])
    shared = sum(x.size for x, flag in zip(arrays, whole, strict=True) if not flag)
    if shared > MAX_SHARED_SIZE:
        raise NoKernelError(
            f"{shared} numbers that all share are too many (at most {MAX_SHARED_SIZE})"
        )
    if any(whole) and platform.backend() == "tpu":
        raise NoKernelError("a network (on a TPU no kernel has one)")
    widest = max([max(x.shape) for x, flag in zip(arrays, whole, strict=True) if flag], default=0)
    if widest > MAX_LAYER_WIDTH:
        raise NoKernelError(f"a network of width {widest} is too wide (at most {MAX_LAYER_WIDTH})")


def check_solver(solver: Solver, size: int) -> None:
    """**Raises:** `NoKernelError` where a solver has none, or not for states of that `size`."""
    reason = solver.why_no_kernel()
    if reason is not None:
        raise NoKernelError(reason)
    most = MAX_IMPLICIT_SIZE if solver.implicit else MAX_STATE_SIZE
    if size > most:
        kind = "of an implicit solver " if solver.implicit else ""
        raise NoKernelError(f"a state {kind}of {size} numbers is too large (at most {most})")


def kernel_refusal(reason: NoKernelError) -> OptionError:
    """What is said where a kernel was asked for."""
    return OptionError(
        f"kernel=True, but there is no kernel for this solve: {reason}. With "
        'kernel="auto" it runs without one'
    )
