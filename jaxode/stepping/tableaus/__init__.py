"""Butcher tableaus, one subject a file; data only."""
