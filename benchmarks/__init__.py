"""Benchmarks: jaxode and its peers side by side in one process. Run with `make bench`."""
