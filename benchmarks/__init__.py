"""Benchmarks of jaxode and its peers side by side in one process. Run with `make bench`.

A package imports only from packages before it in this list: `harness`, `problems`, `figures`; then
`speed`, `gradients` and `accuracy`; then `gpu`. Pages and figures are written to `results/`.
"""
