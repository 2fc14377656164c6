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
from .lowering.block_arrays import kept_whole
from .lowering.unsupported import NoKernelError, refuse_extended

# Lanes of a block: two warps. A block ends with its last lane, so fewer wait less; a GPU holds 32
# blocks at once on each of its processors, so fewer would leave it half empty. A TPU's are one
# register's.
LANES, LANES_TPU = 64, 1024
# Numbers of a state, of one whose steps solve systems, and of what all lanes share: a kernel keeps
# them in registers, and has each of its operations written out for each of them.
MOST_STATE, MOST_IMPLICIT, MOST_SHARED = 32, 12, 256
# Bytes of a state up to which a kernel is taken of itself: compiled for an H100, those of Tsit5 and
# Rodas5P spill 24 bytes at most up to there, forwards or backwards (benchmarks/results).
FITS, FITS_IMPLICIT = 64, 32
# The widest layer of a network: its vectors are kept whole, a row of a block for each lane.
MOST_WIDE = 64
# Whether it has been measured on a GPU where kernels pay: until then none is taken of itself.
MEASURED = False


class KernelPolicy(NamedTuple):
    """What is wished for: a kernel where it pays ("auto"), or else an error, or none at all."""

    kernel: Literal["auto"] | bool
    lanes: int

    @property
    def use_kernel(self) -> bool:
        """Whether a kernel is tried: of itself on a GPU alone, for others have no compiler."""
        if self.kernel == "auto":
            return MEASURED and platform.platform() == "gpu"
        return self.kernel


def find_kernel_policy(kernel: Any, lanes: int | None) -> KernelPolicy:
    """**Raises:** `OptionError` unless `kernel` is "auto" or a boolean."""
    if not (isinstance(kernel, bool) or kernel == "auto"):
        raise OptionError(f'kernel must be "auto", True or False, got {kernel!r}')
    if lanes is None:
        return KernelPolicy(kernel, LANES_TPU if platform.platform() == "tpu" else LANES)
    return KernelPolicy(kernel, 1 << lanes.bit_length() - 1)


def check_kernel(ensemble: Ensemble, asked: bool) -> None:
    """**Raises:** `NoKernelError` where the options or the sizes of a batch rule out a kernel.

    `asked`: by the user, so that it need not pay.
    """
    rows = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), ensemble.per_trajectory
    )
    problem, plan = ensemble.problem_of(rows)
    if ensemble.has_events:
        raise NoKernelError("events and jumps are not looked for there")
    if plan.save not in ("ends", "ts"):
        raise NoKernelError(f'save="{plan.save}" is not written there')
    if plan.save == "ts" and platform.platform() == "tpu":
        raise NoKernelError("a TPU writes at no index per lane: it has end states alone")
    if plan.method.progress is not None:
        raise NoKernelError("progress= calls the host")
    dtype = problem.y0.dtype
    if dtype not in (jnp.float32, jnp.float64):
        raise NoKernelError(f"a state of {dtype} (float32 and float64 have kernels)")
    check_solver(plan.method.solver, problem.y0.size)
    if not asked:
        check_fits(plan.method.solver, problem.y0)
    check_dtypes(ensemble)
    check_shared(ensemble)


def check_fits(solver: Solver, y: Array) -> None:
    """**Raises:** `NoKernelError` for a state that fits no registers."""
    size = y.size * y.dtype.itemsize
    if size > (FITS_IMPLICIT if solver.implicit else FITS):
        raise NoKernelError(f"a state of {size} bytes does not pay there")


def check_dtypes(ensemble: Ensemble) -> None:
    """**Raises:** `NoKernelError` for arrays that hold no numbers."""
    for x in jax.tree.leaves((ensemble.per_trajectory, ensemble.shared)):
        refuse_extended(getattr(x, "dtype", None))


def check_shared(ensemble: Ensemble) -> None:
    """**Raises:** `NoKernelError` for numbers that all share, too many or of too wide a network."""
    part = ensemble.shared[0]
    given = part.field, part.args, part.save_fn, part.jac
    arrays = [x for x in jax.tree.leaves(given) if eqx.is_array(x)]
    whole = kept_whole([x.shape for x in arrays])
    shared = sum(x.size for x, flag in zip(arrays, whole, strict=True) if not flag)
    if shared > MOST_SHARED:
        raise NoKernelError(f"{shared} numbers that all share are too many (at most {MOST_SHARED})")
    if any(whole) and platform.platform() == "tpu":
        raise NoKernelError("a network (on a TPU no kernel has one)")
    widest = max([max(x.shape) for x, flag in zip(arrays, whole, strict=True) if flag], default=0)
    if widest > MOST_WIDE:
        raise NoKernelError(f"a network of width {widest} is too wide (at most {MOST_WIDE})")


def check_solver(solver: Solver, size: int) -> None:
    """**Raises:** `NoKernelError` where a solver has none, or not for states of that `size`."""
    reason = solver.why_no_kernel()
    if reason is not None:
        raise NoKernelError(reason)
    most = MOST_IMPLICIT if solver.implicit else MOST_STATE
    if size > most:
        kind = "of an implicit solver " if solver.implicit else ""
        raise NoKernelError(f"a state {kind}of {size} numbers is too large (at most {most})")


def kernel_refusal(reason: NoKernelError) -> OptionError:
    """What is said where a kernel was asked for."""
    return OptionError(
        f"kernel=True, but there is no kernel for this solve: {reason}. With "
        'kernel="auto" it runs without one'
    )
