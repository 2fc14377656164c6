"""Compilation of a C source file to a library that Python calls."""

import ctypes
import pathlib
import shutil
import subprocess
import tempfile

FLAGS = ("-O3", "-march=native", "-ffast-math", "-shared", "-fPIC")


def compile_c(source: pathlib.Path) -> ctypes.CDLL | None:
    """The compiled library of `source`; None if there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = pathlib.Path(folder) / f"{source.stem}.so"
        subprocess.run([compiler, *FLAGS, source, "-o", library, "-lm"], check=True)
        return ctypes.CDLL(str(library))
