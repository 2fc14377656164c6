"""What `import jaxode` loads: no package that only some of its users need."""

import subprocess
import sys

LATER = {"scipy", "lineax", "matplotlib", "tqdm", "jax.experimental.pallas"}


def test_other_packages_are_loaded_when_they_are_used():
    code = "import sys, jaxode; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not LATER & set(run.stdout.split())
