"""Events and discontinuities: detected, located and applied."""
