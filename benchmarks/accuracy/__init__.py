"""Accuracy that trained models reach; each module writes a section of `docs/results.md`."""
