"""The command line, `python -m jaxode demo` and `python -m jaxode info`."""

import argparse
import importlib.metadata
import platform
import sys
from collections.abc import Sequence

import jax

from . import __version__
from .problem.errors import OptionError, unknown_name
from .solvers.registry import SOLVERS

COMMANDS = ("demo", "info")
PACKAGES = ("jax", "jaxlib", "equinox", "optax", "numpy", "matplotlib", "tqdm")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status. **Raises:** `SystemExit` on misuse."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser()
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        parser.error(str(unknown_name("command", words[0], COMMANDS)))
    options = parser.parse_args(words)
    if options.command == "info":
        print(info())
        return 0
    return _demo(options.out, options.quick)


def info() -> str:
    """A table of versions, devices and solvers, a line each."""
    versions = {"jaxode": __version__, "python": platform.python_version()}
    versions |= {name: _version(name) for name in PACKAGES}
    devices = ", ".join(f"{device.platform} ({device.device_kind})" for device in jax.devices())
    lines = versions | {"devices": devices, "solvers": ", ".join(SOLVERS)}
    width = max(map(len, lines))
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in lines.items())


def _demo(out: str, quick: bool) -> int:
    from .demo import FULL, QUICK, run

    try:
        run(out, QUICK if quick else FULL)
    except OptionError as error:
        print(f"jaxode: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="jaxode", description="Neural ODEs in JAX.")
    parser.add_argument("--version", action="version", version=f"jaxode {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="demo|info")
    demo = commands.add_parser("demo", help="train two neural ODEs, print a table, draw figures")
    demo.add_argument("--out", default="demo", help="the folder for the figures (default: demo)")
    demo.add_argument("--quick", action="store_true", help="a few steps only, to see that it runs")
    commands.add_parser("info", help="print versions, devices and solvers")
    return parser


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    sys.exit(main())
