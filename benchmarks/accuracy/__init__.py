"""Accuracy that trained models reach; each module writes a page in `docs/results`."""
