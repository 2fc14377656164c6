"""A whole ensemble in one Pallas kernel."""
