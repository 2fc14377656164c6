"""JAX's persistent cache of compiled programs, turned on with settings that suit solves."""

import os
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from .errors import OptionError
from .validation import shown_value

# JAX keeps what took a second to compile; solves take less, and reading one takes milliseconds.
LEAST_SECONDS = 0.05


def cache(directory: str | os.PathLike[str] | None = None) -> Path:
    """Keep compiled programs on disk: another process that needs the same one reads it.

    It holds for all that JAX compiles in this process from now on. Programs are found by what they
    compute, the versions of JAX and jaxlib, and the machine, so a stale one is never read. Files
    are never deleted by themselves; the folder may be deleted at any time. Whoever can write into
    it can run code in your processes: use a folder of your own.

    **Arguments:**

    - `directory`: a folder, made if there is none; by default that of the environment variable
      `JAX_COMPILATION_CACHE_DIR`, else `jaxode` in the user's folder for caches
      (`XDG_CACHE_HOME`, or `~/.cache`).

    **Returns:** the folder.

    **Raises:** `OptionError` if it cannot be made or written to.
    """
    if directory is not None and not isinstance(directory, str | os.PathLike):
        raise OptionError(f"directory must be a path, got {shown_value(directory)}")
    folder = Path(_default() if directory is None else directory).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except (OSError, ValueError) as error:
        raise OptionError(f"directory {folder} cannot be made: {error}") from error
    if not writable:
        raise OptionError(f"directory {folder} cannot be written to")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    compilation_cache.reset_cache()  # JAX decides at the first compilation whether it has one
    return folder


def _default() -> str | Path:
    chosen = os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if chosen:
        return chosen
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "jaxode"
