"""Solves of whole batches in one Pallas kernel."""
